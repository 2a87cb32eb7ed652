"""What the doctor has to say: findings, each with its reason and a remedy."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from deepcore.errors import DeepcoreError

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One fault.

    severity: "error" if training fails or learns nothing, "warning" if it suffers, "note" if it is only odd
    path: where: of a layer or a weight, or "X", "y", "net"
    what: the fault   why: what is bad about it   remedy: what to do
    """

    severity: str
    path: str
    what: str
    why: str
    remedy: str

    def __str__(self) -> str:
        lines = textwrap.wrap(f"{self.severity}: {self.path}: {self.what}", 80, subsequent_indent="  ")
        for label, text in (("why", self.why), ("remedy", self.remedy)):
            lines += textwrap.wrap(
                f"  {label + ':':8}{text}", 80, subsequent_indent=" " * 10, break_long_words=False
            )
        return "\n".join(lines)


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What `doctor` found; print it. It is true if all is well: `assert net.doctor(X, y)`.

    findings: the worst first; iterate over the diagnosis for them, len() counts them.
    """

    findings: tuple[Finding, ...] = ()

    def __bool__(self) -> bool:
        return not self.findings

    def __len__(self) -> int:
        return len(self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __getitem__(self, index: int) -> Finding:
        return self.findings[index]

    def __str__(self) -> str:
        if not self.findings:
            return "The doctor found nothing: net and data look well."
        return "\n\n".join(map(str, self.findings))

    def __repr__(self) -> str:
        return str(self)


def raised(path: str, error: Exception, why: str) -> Finding:
    """An error as a finding. Of deepcore's own messages, what follows the semicolon is the remedy."""
    text = str(error) if isinstance(error, DeepcoreError) else f"{type(error).__name__}: {error}"
    what, _, remedy = text.partition("; ")
    return Finding("error", path, what, why, remedy or "mend what the message names")
