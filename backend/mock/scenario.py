"""PURE: what one request is to be answered with, as its own text asks for.

A line ``mock: word word=value ...`` anywhere in the last user message (or the prompt). A word that
is not known is an error, so that a test with a typing mistake does not pass by accident.
"""

from dataclasses import dataclass, fields

HELP = """\
a request scripts its own answer by a line in its last user message or prompt:
  mock: tokens=5 delay_ms=2 crash_after=3

  tokens=N          length of the answer; longer than max_tokens ends in "length"
  delay_ms=F        pause before each token
  prefill_ms=F      time before the first token, spread over the progress events
  prefill_steps=N   progress events of the prefill besides the first
  prompt_tokens=N   pretend that the prompt has N tokens
  cached=N          pretend that N prompt tokens were cached
  finish=WORD       finish_reason to report
  tool_calls=N      answer with N tool calls (of the request's tools, in turn)
  tool_args=JSON    their arguments, without blanks; default: made from the tool's schema
  reasoning=N       N tokens of reasoning_content before the answer
  error=STATUS      answer 400, 404, 500, 501 or 503 in the engine's shape
  error=context     answer the 400 of a prompt that is too long
  error_after=N     error event after N tokens, then the end without [DONE]
  crash_head        die before the first byte of the reply
  crash_after=N     die after N tokens (0: after the head and the progress events)
  crash=WORD        how: segv, abrt, kill, term, or an exit code
  hang_head         never answer
  hang_after=N      send nothing more after N tokens
  cut_after=N       drop the connection after N bytes of body
  once=NAME         crash, hang, error or cut only the first time NAME is seen, restarts included
  linger_ms=F       keep the slot so much longer after the client has left
  split=N           send the body in pieces of N bytes
  ping              send an SSE comment before the first token
  say=TEXT          the answer, whatever schema it should fit; takes the rest of the line
"""


class BadScenario(ValueError):  # noqa: N818 - what it is, not what went wrong
    """A scenario line that cannot be understood."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One request's script; the fields are the words of `HELP`. None: as the flags say."""

    tokens: int | None = None
    delay_ms: float | None = None
    prefill_ms: float | None = None
    prefill_steps: int = 1
    prompt_tokens: int | None = None
    cached: int = 0
    finish: str | None = None
    tool_calls: int = 0
    tool_args: str | None = None
    reasoning: int = 0
    error: str | None = None
    error_after: int | None = None
    crash_head: bool = False
    crash_after: int | None = None
    crash: str | None = None
    hang_head: bool = False
    hang_after: int | None = None
    cut_after: int | None = None
    once: str | None = None
    linger_ms: float = 0.0
    split: int | None = None
    ping: bool = False
    say: str | None = None

    def without_faults(self) -> "Scenario":
        """The same without what `once` limits to the first time."""
        kept = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in _FAULTS:
            kept[name] = False if name in _FLAGS else None
        return Scenario(**kept)


_FAULTS = (
    *("error", "error_after", "crash_head", "crash_after", "hang_head", "hang_after", "cut_after"),
)
_FLAGS = ("crash_head", "hang_head", "ping")
_TEXTS = ("finish", "tool_args", "error", "crash", "once", "say")
_FLOATS = ("delay_ms", "linger_ms", "prefill_ms")
_NAMES = frozenset(each.name for each in fields(Scenario))
_MARK = "mock:"
_DEFAULT = Scenario()


def parse_scenario(text: str) -> Scenario:
    """
    Find the scenario line in *text*.

    Raises:
        BadScenario: A word is unknown or its value does not fit.
    """
    start = text.find(_MARK)
    if start < 0:
        return _DEFAULT
    line = text[start + len(_MARK) :].partition("\n")[0]
    line, found, said = line.partition(" say=")
    values: dict[str, object] = {"say": said} if found else {}
    for word in line.split():
        name, _, value = word.partition("=")
        if name not in _NAMES:
            raise BadScenario(f"mock: unknown word {name!r}")
        values[name] = _value(name, value)
    return Scenario(**values)  # type: ignore[arg-type]


def _value(name: str, value: str) -> object:
    if name in _FLAGS:
        return True
    if name in _TEXTS:
        return value
    try:
        return float(value) if name in _FLOATS else int(value)
    except ValueError:
        raise BadScenario(f"mock: {name} does not take {value!r}") from None
