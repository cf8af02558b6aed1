"""What ``scripts/benchmark.py`` is made of: how fast does an OpenAI-compatible endpoint answer?

    plan.py      PURE  what is asked of which endpoint, and the bodies that are sent
    stream.py    PURE  the bytes of one streamed answer -> what came when, and whether all came
    samples.py   PURE  one request and its outcome; what one round of requests saw
    figures.py   PURE  rounds -> percentiles, rates, failures by kind, ratios
    ask.py       sends one request, waits where a refusal says so, never raises for a failure
    trouble.py   what went wrong, and what to do about it, in plain words
    measure.py   warm-up, rounds of requests side by side, all bounded in time
    progress.py  what standard error is told meanwhile: a bar, or a line for each level
    document.py  PURE  figures -> JSON
    table.py     PURE  figures -> text
    charts.py    PURE  figures -> SVG
    page.py      PURE  figures and charts -> one HTML file
    options.py   the words of the command line, and its help

Nothing here knows the gateway: it measures any endpoint the same way.
"""
