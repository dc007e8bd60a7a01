"""What the doctor says: one thing at a time, in plain words."""

from typing import Any, NamedTuple

NOTHING = "nothing needs to be done"


class Finding(NamedTuple):
    """One thing that is not as it should be; or, with `damage` False, that is worth knowing."""

    damage: bool
    where: str
    """File and byte, or the log."""
    what: str
    means: str
    """For which queue, topic and offsets."""
    start: str
    """What a start of the broker would do."""
    do: str
    """What to type next."""

    def as_json(self) -> dict[str, Any]:
        """One object."""
        values = self._asdict()
        return {"is": "finding" if values.pop("damage") else "note"} | values

    def as_text(self, data: str) -> str:
        """Several lines; `data`: what to type for the directory."""
        head = "FINDING" if self.damage else "note"
        lines = [f"{head}  {self.where}: {self.what}"]
        lines += [
            f"         {label:<8} {text.replace('DATA', data)}"
            for label, text in (("means", self.means), ("a start", self.start), ("next", self.do))
            if text
        ]
        return "\n".join(lines)


def finding(where: str, what: str, means: str, start: str, do: str) -> Finding:
    """Something is damaged."""
    return Finding(True, where, what, means, start, do)


def remark(where: str, what: str, means: str = "", start: str = "", do: str = NOTHING) -> Finding:
    """Something is worth knowing."""
    return Finding(False, where, what, means, start, do)
