"""Fuzz one decoder for as long as one likes, guided by coverage.

    python tests/fuzz/atheris_targets.py DECODER [SECONDS] [CORPUS]

Without arguments it lists the decoders. What a decoder may not raise, a hang of ten seconds and
more than 2 GiB of memory end the run with the input in ``.fuzz/DECODER-crash-...``. Inputs that
reached something new stay in CORPUS (``.fuzz/DECODER``), where the next run goes on.
"""

import sys
from importlib import import_module
from pathlib import Path

HANG_S = 10
RSS_MIB_MAX = 2_048
INPUT_BYTES_MAX = 65_536


def main(words: list[str]) -> int:
    """Fuzz; returns only when there is nothing to do."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    if not words:
        from tests.support.decoders import DECODERS

        print("\n".join(DECODERS))
        return 2
    atheris = import_module("atheris")  # of requirements/fuzz.txt, not among the tests' libraries
    with atheris.instrument_imports(include=["edge_agent", "fleet_server", "tarfile", "zipfile"]):
        from tests.support.decoders import DECODERS
    name, seconds = words[0], int(words[1]) if len(words) > 1 else 60
    if name not in DECODERS:
        print(f"no decoder {name!r}; known: {', '.join(DECODERS)}", file=sys.stderr)
        return 2
    decoder = DECODERS[name]
    corpus = Path(words[2] if len(words) > 2 else f".fuzz/{name}")
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(decoder.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)

    def try_once(data: bytes) -> None:
        try:
            decoder.decode(data)
        except decoder.errors:
            return

    flags = [f"-max_total_time={seconds}", f"-timeout={HANG_S}", f"-rss_limit_mb={RSS_MIB_MAX}"]
    largest = max([INPUT_BYTES_MAX, *(2 * len(seed) for seed in decoder.seeds())])
    flags += [
        f"-artifact_prefix={corpus.parent}/{name}-",
        f"-max_len={largest}",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], try_once)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
