"""What follows when a visitor touches a part of the page: from the values of its parts to new ones, by name.

    handlers = Handlers(desk)
    changed = handlers.asked(Visit(state, {"expression": "the bird", ...}))     # {"results": "<div ...", ...}

Nothing here knows how the page is made; `page.py` binds the names to its parts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from analyze import score_all
from lab.api import Found
from lab.app import views
from lab.app.desk import EXAMPLES, READ, Desk, Word, too_many_bytes
from lab.app.files import write_files
from lab.app.state import (
    OWN,
    RANKED,
    RULES,
    Side,
    State,
    as_query,
    checked,
    command,
    differing,
    heads_of,
    kept_of_query,
    matters,
    of_query,
    value_of,
)
from lab.base.console import one_line
from lab.base.errors import UserError
from lab.base.paths import resolved

CLICKED = "clicked"  # of the part `heads`: those that were clicked
SHOWN = "shown"  # beside the parts: which of them are there at all
Changed = dict[str, Any]


@dataclass(frozen=True)
class Visit:
    """What there is when a part is touched."""

    state: State | None
    values: Mapping[str, Any]  # of the parts, by name
    event: Mapping[str, Any] = field(default_factory=dict)  # what the part tells
    query: Mapping[str, str] = field(default_factory=dict)  # of the page's address
    progress: Callable[[float, str], Any] = lambda share, text: None

    @property
    def asked(self) -> State:
        """Raises UserError if nothing was asked yet."""
        if self.state is None or not self.state.is_asked:
            raise UserError("Ask the model first")
        return self.state

    @property
    def side(self) -> int:
        """The side whose heads are shown."""
        return min(int(self.values["which"] or 0), len(self.asked.sides) - 1)


class Handlers:
    """Each method is an event: what changes, by the name of the part."""

    def __init__(self, desk: Desk, uploads: Path) -> None:
        self.desk, self.uploads = desk, uploads

    # asking

    def opened(self, visit: Visit) -> Changed:
        """The page with what its link asks for; without a link, with the first example."""
        kept = kept_of_query(visit.query, EXAMPLES)
        try:
            state = of_query(visit.query, EXAMPLES)
            return self._answered(state, visit, 0) | self._question(state)
        except UserError as error:  # a link that leads nowhere
            return self._unanswered(kept, error) | self._question(kept)

    def asked(self, visit: Visit) -> Changed:
        """What was typed is asked, of the same picture and with the same heads."""
        before = visit.state or State(next(iter(EXAMPLES)), (Side(""),))
        return self._answered(replace(before, sides=_sides(before, visit.values)), visit, visit.values["which"])

    def example(self, visit: Visit) -> Changed:
        """A picture that ships, and what is asked of it."""
        name = str(visit.event.get("name"))
        if name not in EXAMPLES:
            raise UserError(f"There is no such example; choose from {', '.join(EXAMPLES)}")
        state = State(name, (Side(EXAMPLES[name]),), visit.state.rules if visit.state else {})
        return self._answered(state, visit, 0) | self._question(state)

    def dropped(self, visit: Visit) -> Changed:
        """A picture that was uploaded, asked for what is typed."""
        path, name = resolved(str(visit.event.get("path"))), Path(str(visit.event.get("name") or "picture")).name
        if not path.is_relative_to(self.uploads.resolve()):  # a browser may claim anything
            raise UserError("Only pictures that were uploaded here are read")
        try:
            key = self.desk.take(path, name)
        finally:
            path.unlink(missing_ok=True)
        state = replace(visit.state, picture=key) if visit.state else State(key, (Side(""),))
        try:
            asked = replace(state, sides=_sides(state, visit.values))
            return self._answered(asked, visit, visit.values["which"])
        except UserError as error:  # the next question is about this picture all the same
            return self._unanswered(state, error)

    def refused(self, visit: Visit) -> Changed:
        """A file that the browser did not send."""
        raise UserError(too_many_bytes(str(visit.event.get("name"))))

    def read(self, visit: Visit) -> Changed:
        """The maps of the words, once the rest is there."""
        state = visit.state
        if state is None or not state.is_asked:  # nothing could be asked, as was told
            return {}
        each = [(self.desk.find(state, side), side) for side in range(len(state.sides))]
        return {"results": views.cards([(found, self.desk.words(state, side, found)) for found, side in each])}

    # rules and heads

    def ruled(self, visit: Visit) -> Changed:
        """Another rule, on the records that are there."""
        state, values = visit.asked, {key: visit.values[key] for key in RULES}
        state = replace(state, rules=differing(self.desk.model.config.logic, values))
        changed = self._followed(state, visit.side)
        return {name: changed[name] for name in changed if name not in RULES}  # a slider may have moved on meanwhile

    def chose(self, visit: Visit) -> Changed:
        """Heads that were clicked; the model's own if none is left. The page hears which choice this answers."""
        told = visit.event.get("choice")
        choice = told if isinstance(told, int) else 0
        try:
            heads = heads_of(",".join(map(str, visit.event.get("heads") or [OWN])))
            return self._followed(_with_heads(visit.asked, visit.side, heads), visit.side, choice=choice)
        except UserError as error:  # the page shows those again that are chosen still
            before = self._followed(visit.asked, visit.side, choice=choice)
            return before | {"message": views.message(one_line(error), "wrong")}

    def picked(self, visit: Visit) -> Changed:
        """Other heads by their kind."""
        heads = visit.values["heads"]
        if heads == CLICKED:
            heads = self.desk.find(visit.asked, visit.side).heads
        return self._followed(_with_heads(visit.asked, visit.side, heads), visit.side)

    def turned(self, visit: Visit) -> Changed:
        """The other side's heads."""
        return self._followed(visit.asked, visit.side, grid=True)

    def knocked(self, visit: Visit) -> Changed:
        """What the model says with the heads changed."""
        visit.progress(0.3, "the model answers, heads changed")
        way = visit.values["way"]
        said = self.desk.knock_out(visit.asked, visit.side, way)
        return {"answers": views.answers(said, way.startswith("keep"))}

    def made(self, visit: Visit) -> Changed:
        """The files of one side."""
        visit.progress(0.3, "drawing")
        state, found = visit.asked, self.desk.find(visit.asked, visit.side)
        return {"files": write_files(found, self.desk.file_of(state.picture), self.uploads), SHOWN: {"files": True}}

    # what is shown

    def _answered(self, state: State, visit: Visit, side: int) -> Changed:
        own = self.desk.model.config.logic
        state = replace(state, rules=differing(own, state.rules))
        for number in range(len(state.sides)):
            visit.progress(0.3 + 0.3 * number, "the model reads picture and expression")
            self.desk.ask(state, number)
        side = min(int(side or 0), len(state.sides) - 1)
        photo = {"photo": views.photo(self.desk.picture(state.picture).preview)}
        return photo | self._followed(state, side, grid=True)

    def _unanswered(self, state: State, error: UserError) -> Changed:
        """Why nothing is found in a picture that is there from now on; what was found in another one goes."""
        gone: Changed = dict.fromkeys(("results", "grid", "marks", "answers", "take"), "")
        told = {"state": state.unasked, "message": views.message(one_line(error), "wrong"), SHOWN: {"files": False}}
        try:
            return gone | told | {"photo": views.photo(self.desk.picture(state.picture).preview)}
        except UserError:  # it is not kept any more, which is what the error says
            return gone | told

    def _followed(self, state: State, side: int, *, grid: bool = False, choice: int = 0) -> Changed:
        """What follows from the state without asking the model; with the `grid` of all heads, if it is another one.

        `choice` is which choice of heads on the page it answers, 0 for none.
        """
        model, each = self.desk.model, [self.desk.find(state, number) for number in range(len(state.sides))]
        found, table = each[side], score_all(each[side].record, each[side].logic)
        file, heads = self.desk.file_of(state.picture), state.sides[side].heads
        lines = [command(state, number, file, model.options) for number in range(len(state.sides))]
        rules = {key: state.rules.get(key, value_of(model.config.logic, key)) for key in RULES}
        anew = {"grid": views.head_grid(found, table), "answers": "", "which": side} if grid else {}
        shown = {key: matters(key, rules) for key in RULES if RULES[key].only} | ({"files": False} if grid else {})
        return (
            rules
            | anew
            | {
                "state": state,
                "results": views.cards([(one, self._words(state, number, one)) for number, one in enumerate(each)]),
                "marks": views.marks(found, table, choice),
                "take": views.take(lines, as_query(state), lasting=state.picture in EXAMPLES),
                "heads": heads if heads in (OWN, RANKED) else CLICKED,
                SHOWN: shown,
            }
        )

    def _words(self, state: State, side: int, found: Found) -> list[Word]:
        """Those that the model was asked for already."""
        return self.desk.words(state, side, found) if self.desk.asked(state, side, READ[1]) else []

    @staticmethod
    def _question(state: State) -> Changed:
        second = state.sides[1].expression if len(state.sides) > 1 else ""
        return {"expression": state.sides[0].expression, "second": second, "compare": len(state.sides) > 1}


def _sides(before: State, values: Mapping[str, Any]) -> tuple[Side, ...]:
    """What is typed, with the heads that each side has."""
    first = checked(values["expression"] or "")
    heads = [side.heads for side in before.sides] + [OWN]
    if not values["compare"]:
        return (Side(first, heads[0]),)
    second = values["second"] or ""
    return Side(first, heads[0]), Side(checked(second) if second.strip() else first, heads[1])


def _with_heads(state: State, side: int, heads: Any) -> State:
    sides = list(state.sides)
    sides[side] = replace(sides[side], heads=heads)
    return replace(state, sides=tuple(sides))
