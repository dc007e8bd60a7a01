"""Consumers that spoil what they are given, once, before it is looked at: what verification has to find."""

from abc import abstractmethod

from penstock_loadtest.adapter import Arrived, Bodies
from penstock_loadtest.own import Penstock


class Spoiling(Penstock):
    """Changes the first delivery of at least four messages."""

    @abstractmethod
    def spoil(self, bodies: list[bytes]) -> list[bytes]:
        """What arrives in their place."""

    async def consume(self, reader: int, arrived: Arrived) -> None:
        spoiled = False

        async def between(bodies: Bodies, count: int) -> None:
            nonlocal spoiled
            if not spoiled and len(bodies) >= 4:
                spoiled = True
                bodies = self.spoil([bytes(body) for body in bodies])
            await arrived(bodies, len(bodies))

        await super().consume(reader, between)


class Losing(Spoiling):
    def spoil(self, bodies: list[bytes]) -> list[bytes]:
        return bodies[:1] + bodies[2:]


class Repeating(Spoiling):
    def spoil(self, bodies: list[bytes]) -> list[bytes]:
        return [*bodies, bodies[1], bodies[2]]


class Swapping(Spoiling):
    def spoil(self, bodies: list[bytes]) -> list[bytes]:
        return [bodies[1], bodies[0], *bodies[2:]]


class Damaging(Spoiling):
    def spoil(self, bodies: list[bytes]) -> list[bytes]:
        return [bodies[0][:-1] + b"?", *bodies[1:]]


class Dying(Spoiling):
    def spoil(self, bodies: list[bytes]) -> list[bytes]:
        raise ValueError("the consumer\nbroke")


class Refusing(Penstock):
    """Cannot publish the third batch of a lane."""

    calls = 0

    async def publish(self, lane: int, bodies: list[bytes]) -> None:
        self.calls += 1
        if self.calls == 3:
            raise OSError("no luck")
        await super().publish(lane, bodies)
