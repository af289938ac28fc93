"""A ground without servers: it notes what is asked of it, and does what it is told."""

from contextlib import contextmanager
from dataclasses import replace

from loadtest.evidence.results import AttackResult, LoadResult, Share
from loadtest.load.plan import Progress
from loadtest.scenario.ground import GroundError


def load_result(name="a", side="direct", turn=0, **changed):
    """A load of ten requests, all answered."""
    made = LoadResult(
        name=name, part="honest", kind="honest", side=side, arrivals="constant, 10/s for 1 s",
        round=turn, seconds=1.0, offered=10, sent=10, late=0, dropped=0, statuses={"200": 10},
        said={"answered": 10}, errors={}, good=10,
    )  # fmt: skip
    return replace(made, **changed)


def attack_result(driver="square", side="direct", **changed):
    """An attack of two tries, both of which succeed."""
    made = AttackResult(
        driver=driver, family="evasion", side=side, atlas=("AML.T0043.001",), goal="a goal",
        success=Share(2, 2), queries=20, distinct=20, seed=1,
        recognised=Share(1, 2) if side == "firewall" else None,
    )  # fmt: skip
    return replace(made, **changed)


class FakeGround:
    """A ``Ground``.

    Attributes:
        did: what was asked of it, in order.
        ends: by what was asked, what it raises then.
        dead: after what was asked, why every check fails.
        attacks: by title, what an attack is changed by.
    """

    def __init__(self):
        self.did = []
        self.ends = {}
        self.dead = {}
        self.attacks = {}
        self.during = None
        self.down = ""

    def _note(self, what):
        self.did.append(what)
        if what in self.dead:
            self.down = self.dead[what]
        if what in self.ends:
            raise self.ends[what]

    def check(self, sides):
        self.did.append(f"check {' '.join(sides)}")
        if self.down:
            raise GroundError(self.down)

    def prepare(self, attack):
        self._note(f"prepare {attack.title}")

    def load(self, load, side, turn, progress):
        self._note(f"load {load.name} {side} {turn}")
        progress(Progress(load.name, side, turn, 1.0, 1.0, 10, 10, 0, 0, {"answered": 10}, 0))
        if self.during is not None:
            self.during(load, turn, progress)
        return [load_result(load.name, side, turn)]

    def attack(self, attack, side, journal, progress):
        self._note(f"attack {attack.title} {side}")
        progress(20, {"answered": 20})
        journal.write_text("asked")
        return attack_result(attack.driver, side, **self.attacks.get(attack.title, {}))

    def describe(self):
        return {"protocol": "v2"}

    def notes(self):
        return ("a note",)

    @contextmanager
    def opened(self, scenario, folder):
        """As ``opening.opened``."""
        self.did.append("open")
        try:
            yield self
        finally:
            self.did.append("close")
