"""SQS through boto3, in the words of sides.py, and moto's server that plays SQS."""

import json
import sys
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from tests.integration.sides import Counts, Refused, Taken

from penstock_loadtest.peers.server import PeerServer, program

ACCOUNT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
COUNTS = ("", "NotVisible", "Delayed")


class Moto(PeerServer):
    """moto's server."""

    PROGRAM = sys.executable

    @classmethod
    def missing(cls) -> str | None:
        return None if program("setpriv") else "setpriv is not installed (Linux)"

    def launch(self) -> None:
        self.url = f"http://127.0.0.1:{self.port}"
        self.spawn(self.PROGRAM, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port))


def environment(url: str) -> dict[str, str]:
    """Where boto3 finds it."""
    return ACCOUNT | {"AWS_ENDPOINT_URL": url}


class Sqs:
    """A client of SQS. Queues are FIFO if they are declared with `fifo=True`; their names tell."""

    name = "sqs"

    def __init__(self, url: str) -> None:
        self.sqs: Any = boto3.client(
            "sqs",
            endpoint_url=url,
            region_name=ACCOUNT["AWS_DEFAULT_REGION"],
            aws_access_key_id=ACCOUNT["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=ACCOUNT["AWS_SECRET_ACCESS_KEY"],
            config=Config(retries={"total_max_attempts": 1}),
        )

    def close(self) -> None:
        self.sqs.close()

    def call(self, action: str, queue: str | None = None, **parameters: Any) -> Any:
        """An action, on a queue by its name."""
        try:
            if queue is not None:
                parameters["QueueUrl"] = self._url(queue)
            return getattr(self.sqs, action)(**parameters)
        except ClientError as error:
            raise Refused(str(error)) from error

    def _url(self, queue: str) -> str:
        for name in (queue, f"{queue}.fifo"):
            try:
                url: str = self.sqs.get_queue_url(QueueName=name)["QueueUrl"]
                return url
            except self.sqs.exceptions.QueueDoesNotExist as error:
                refused = Refused(str(error))
        raise refused

    async def declare(self, queue: str, *, fifo: bool = False, **settings: Any) -> None:
        attributes: dict[str, str] = {}
        if fifo:
            queue, attributes["FifoQueue"] = f"{queue}.fifo", "true"
        for name, value in settings.items():
            match name:
                case "visibility_timeout":
                    attributes["VisibilityTimeout"] = str(value)
                case "delay":
                    attributes["DelaySeconds"] = str(value)
                case "content_dedup":
                    attributes["ContentBasedDeduplication"] = str(value).lower()
                case "dead_letter":
                    found = self.call("get_queue_attributes", value, AttributeNames=["QueueArn"])
                    policy = {
                        "deadLetterTargetArn": found["Attributes"]["QueueArn"],
                        "maxReceiveCount": settings["max_deliveries"],
                    }
                    attributes["RedrivePolicy"] = json.dumps(policy)
                case "max_deliveries":
                    pass  # above
                case _:
                    raise ValueError(name)
        self.call("create_queue", QueueName=queue, Attributes=attributes)

    async def publish(self, queue: str, body: str, **options: Any) -> Any:
        return self.call("send_message", queue, MessageBody=body, **_parameters(options))

    async def publish_many(self, queue: str, items: list[tuple[str, dict[str, Any]]]) -> None:
        entries = [
            {"Id": str(number), "MessageBody": body, **_parameters(options)}
            for number, (body, options) in enumerate(items)
        ]
        self.call("send_message_batch", queue, Entries=entries)

    async def take(
        self, queue: str, most: int = 1, wait: float = 0, visibility_timeout: int | None = None
    ) -> list[Taken]:
        visibility = {} if visibility_timeout is None else {"VisibilityTimeout": visibility_timeout}
        reply = self.call(
            "receive_message",
            queue,
            MaxNumberOfMessages=most,
            WaitTimeSeconds=round(wait),
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
            **visibility,
        )
        return [_taken(queue, message) for message in reply.get("Messages", [])]

    async def ack(self, *taken: Taken) -> None:
        entries = [
            {"Id": str(number), "ReceiptHandle": each.raw["ReceiptHandle"]}
            for number, each in enumerate(taken)
        ]
        reply = self.call("delete_message_batch", taken[0].raw["Queue"], Entries=entries)
        if reply.get("Failed"):
            raise Refused(reply["Failed"])

    async def release(self, *taken: Taken) -> None:
        for each in taken:
            await self.extend(each, 0)

    fail = release

    async def extend(self, taken: Taken, seconds: int) -> None:
        self.call(
            "change_message_visibility",
            taken.raw["Queue"],
            ReceiptHandle=taken.raw["ReceiptHandle"],
            VisibilityTimeout=seconds,
        )

    async def counts(self, queue: str) -> Counts:
        names = [f"ApproximateNumberOfMessages{each}" for each in COUNTS]
        found = self.call("get_queue_attributes", queue, AttributeNames=names)["Attributes"]
        return Counts(*(int(found[name]) for name in names))

    async def purge(self, queue: str) -> None:
        self.call("purge_queue", queue)

    async def delete(self, queue: str) -> None:
        self.call("delete_queue", queue)


def _parameters(options: dict[str, Any]) -> dict[str, Any]:
    names = {"delay": "DelaySeconds", "message_group": "MessageGroupId", "dedup_id": "MessageDeduplicationId"}
    parameters = {names[name]: value for name, value in options.items() if name != "headers"}
    if "headers" in options:
        parameters["MessageAttributes"] = {
            name: _attribute(value) for name, value in options["headers"].items()
        }
    return parameters


def _attribute(value: Any) -> dict[str, Any]:
    if isinstance(value, bytes):
        return {"DataType": "Binary", "BinaryValue": value}
    return {"DataType": "String" if isinstance(value, str) else "Number", "StringValue": str(value)}


def _value(attribute: dict[str, Any]) -> Any:
    if attribute["DataType"] == "Number":
        return int(attribute["StringValue"])
    return attribute.get("StringValue", attribute.get("BinaryValue"))


def _taken(queue: str, message: dict[str, Any]) -> Taken:
    count = int(message["Attributes"]["ApproximateReceiveCount"])
    headers = {name: _value(each) for name, each in message.get("MessageAttributes", {}).items()}
    return Taken(message["Body"], count > 1, count, headers, {**message, "Queue": queue})
