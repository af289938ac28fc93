"""LitServe's OpenAI servers, with the ``openai`` library."""

from real_custom import LitServeOpenAI
from real_guard import LIMITS, Way
from real_pairs import Pair, said

SERVER = LitServeOpenAI
PACED = {"limits": {**LIMITS, "rows_per_second": 1.0}}
WAYS = {"openai": Way("openai", "/{model}/v1", "/v1", scored=False, models={"paced": PACED})}


class OpenAIPair(Pair):
    """Texts in place of rows."""

    distribution = "openai"
    environment = "clients"
    program = "openai_driver.py"
    way = "openai"
    client = "openai"
    blocked = ("openai.PermissionDeniedError", "403")
    limited = ("openai.RateLimitError", "429")  # not again if told to wait beyond two minutes
    call: str

    def questions(self):
        return [f"{'many ' * (number % 5)}words, naïve ones: 漢字 {number}" for number in range(20)]

    def base(self, guarded, model, through):
        path = f"/{model}" if through else ""
        return f"http://127.0.0.1:{guarded.port(through)}{path}/v1"

    def ask(self, driver, guarded, text, model="linear", *, through=True):
        messages = [{"role": "user", "content": text}]
        return driver.ask(
            base=self.base(guarded, model, through), call=self.call, model="lit", messages=messages
        )

    def test_a_block(self, driver, guarded, observe, request):
        """What is not of the calls that pass: a text itself is never judged."""
        program = driver(self.environment, self.program)
        before = guarded.refused()
        answer = program.ask(base=self.base(guarded, "linear", True), call="files")
        assert (answer["exception"], answer["status"]) == self.blocked, answer
        assert "this API is restricted" in answer["message"]
        attempts = guarded.refused() - before
        assert attempts == 1
        self._observe(observe, guarded, request, block=said(answer), block_attempts=int(attempts))


class TestChat(OpenAIPair):
    shown_way = "OpenAI chat"
    call = "chat"

    def test_it_waits_as_long_as_it_is_told(self, driver, guarded):
        """It asks again after what Retry-After says, where that is not long: here a second."""
        program = driver(self.environment, self.program)
        first = self.ask(program, guarded, "words", "paced")
        assert self.ask(program, guarded, "words", "paced") == first
        assert "result" in first
        assert guarded.refused("openai-paced") == 1


class TestStream(OpenAIPair):
    shown_way = "OpenAI chat, streamed"
    call = "stream"


class TestEmbeddings(OpenAIPair):
    shown_way = "OpenAI embeddings"
    call = "embeddings"

    def ask(self, driver, guarded, text, model="linear", *, through=True):
        return driver.ask(
            base=self.base(guarded, model, through), call=self.call, model="lit", input=text
        )
