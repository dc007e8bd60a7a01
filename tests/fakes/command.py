"""A client for commands of the command line: it answers what the test says, and keeps what it was asked."""


class FakeQueue:
    """The handle of one queue, or the client itself."""

    def __init__(self, name, answers):
        self.name = name
        self.asked = []
        self._answers = answers

    def __getattr__(self, verb):
        async def ask(*args, **options):
            self.asked.append((verb, args, options))
            return self._answers[verb]

        return ask


class FakeClient(FakeQueue):
    """`answers`: what a verb returns, by its name."""

    def __init__(self, **answers):
        super().__init__("", answers)
        self.queues = {}

    def queue(self, name):
        return self.queues.setdefault(name, FakeQueue(name, self._answers))
