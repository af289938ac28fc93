"""What every real client is to see of the firewall before a real server.

A subclass names the client and asks one question with it; the tests are the same for all.
"""

import numpy as np
from real_servers import COLUMNS, version_of

ROUNDS = 20
OUTLIER = [[1000.0, -1000.0, 1000.0, -1000.0]]


def honest_rows():
    """Batches of honest rows, with values among them whose shortest decimal form is long."""
    draw = np.random.default_rng(11)
    for number in range(ROUNDS):
        rows = np.clip(draw.normal(size=(1 + number % 5, len(COLUMNS))), -1, 1)
        if number == 0:
            rows[0] = 0.1 + 0.2, 1 / 3, 0.0, 2.0**-30
        yield rows.tolist()


class Pair:
    """A real client of a real server.

    Attributes:
        client: its name in tables; ``distribution`` and ``environment``: where it is installed.
        program: its driver.
        way: how it is led through the firewall, ``shown_way``: as the table says it.
        blocked: its exception and the status in it, where a request is blocked.
        limited: the same of a limit.
        attempts: how often it asks in vain, where a limit stands.
        wordless: whether its exception leaves out the words of the refusal.
    """

    client: str
    distribution: str
    environment: str
    program: str
    way: str
    shown_way = ""
    blocked: tuple[str, str | None]
    limited: tuple[str, str | None]
    attempts = 1
    wordless = False

    def questions(self):
        """What is asked for comparison: honest rows, or what stands for them."""
        return list(honest_rows())

    def ask(self, driver, guarded, rows, model="linear", *, through=True):
        """One question about rows, through the firewall or past it."""
        raise NotImplementedError

    def direct(self, driver, guarded, rows):
        """The same question past the firewall."""
        return self.ask(driver, guarded, rows, through=False)

    def _observe(self, observe, guarded, request, **seen):
        shown = self.shown_way or self.way
        root = request.getfixturevalue("environment")(self.environment)
        observe(
            "clients",
            f"{guarded.server.environment} {self.client} {shown}",
            server=f"{guarded.server.shown} {guarded.server.version}",
            client=f"{self.client} {version_of(root, self.distribution)}",
            protocol=shown,
            **seen,
        )

    def test_the_same_answers(self, driver, guarded, observe, request):
        program = driver(self.environment, self.program)
        same = 0
        questions = self.questions()
        for rows in questions:
            direct = self.direct(program, guarded, rows)
            assert "exception" not in direct, direct
            through = self.ask(program, guarded, rows)
            assert through == direct, (through, direct)
            same += 1
        assert same == len(questions) == ROUNDS
        self._observe(observe, guarded, request, same=same, of=ROUNDS)

    def test_a_block(self, driver, guarded, observe, request):
        program = driver(self.environment, self.program)
        assert "exception" not in self.direct(program, guarded, OUTLIER)
        before = guarded.refused(f"{self.way}-linear")
        answer = self.ask(program, guarded, OUTLIER)
        assert (answer["exception"], answer["status"]) == self.blocked, answer
        assert "request refused" in answer["message"] or self.wordless, answer
        attempts = guarded.refused(f"{self.way}-linear") - before
        assert attempts == 1  # a block is final: no client tries again
        self._observe(observe, guarded, request, block=said(answer), block_attempts=int(attempts))

    def test_a_limit(self, driver, guarded, observe, request):
        program = driver(self.environment, self.program)
        question = self.questions()[0][:1]  # one row, or one character
        self.ask(program, guarded, question, "limited")
        before = guarded.refused(f"{self.way}-limited")
        answer = self.ask(program, guarded, question, "limited")
        assert (answer["exception"], answer["status"]) == self.limited, answer
        assert "rate limit exceeded" in answer["message"] or self.wordless, answer
        attempts = guarded.refused(f"{self.way}-limited") - before
        assert attempts == self.attempts, attempts
        self._observe(observe, guarded, request, limit=said(answer), limit_attempts=int(attempts))


def said(answer):
    """An exception as a table shows it: its class, and the status that it carries."""
    name = answer["exception"].rpartition(".")[2]
    return f"`{name}`" + (f" {answer['status']}" if answer["status"] else "")
