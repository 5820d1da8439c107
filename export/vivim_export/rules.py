"""What a rewrite is here: a rule that says what it replaces, when it may, what it puts there, and why it declines.

A rule looks at one site (a module of a network, a node of a graph) and changes nothing by itself: whoever applies it
puts the result in the site's place. Rules of networks are in vivim_export.folding, of graphs in vivim_export.lowering.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

__all__ = ["Declined", "Rule"]

Site = TypeVar("Site", contravariant=True)
Result = TypeVar("Result", covariant=True)


class Rule(Protocol[Site, Result]):
    """One rewrite, exact in real arithmetic."""

    @property
    def name(self) -> str:
        """What it does, in words."""
        ...

    def matches(self, site: Site) -> bool:
        """Whether this is what the rule replaces."""
        ...

    def reason_to_decline(self, site: Site) -> str:
        """Why a site that matches must stay as it is; "" where it need not."""
        ...

    def rewrite(self, site: Site) -> Result:
        """What takes the place of a site that matches and has no reason to stay; the site itself is left alone."""
        ...


@dataclass(frozen=True)
class Declined:
    """A site that a rule matched and left as it was."""

    rule: str
    site: str
    reason: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.site} stays as it is: {self.reason}"
