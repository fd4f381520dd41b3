"""What a run came to, as it is printed."""

import statistics
from collections import Counter
from dataclasses import dataclass, field

from bench.kills.phases import PHASES, Phase
from bench.kills.strikes import Kill


@dataclass(slots=True)
class Report:
    """Of all rounds together."""

    kills: dict[str, list[Kill]] = field(default_factory=dict)
    """By round."""
    streams: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    lost: int = 0
    held: int = 0
    leaked: int = 0
    retries: int = 0
    missed: int = 0
    """Moments that never came."""
    settle_s: float = 0.0
    longest_s: list[float] = field(default_factory=list)
    """Of each stream, how long it was silent at most."""
    faults: list[str] = field(default_factory=list)

    def note(self, name: str, kill: Kill) -> None:
        self.kills.setdefault(name, []).append(kill)
        print(f"  {name}: {kill.worker}, {kill.phase.name}", flush=True)

    def show(self) -> None:
        counts = {name: Counter(kill.phase for kill in kills) for name, kills in self.kills.items()}
        print(f"\n{'kills':<46}" + "".join(f"{name:>20}" for name in counts))
        for phase in PHASES:
            if any(count[phase] for count in counts.values()):
                print(f"{_label(phase):<46}" + "".join(f"{count[phase]:>20}" for count in counts.values()))
        print(f"{'all':<46}" + "".join(f"{count.total():>20}" for count in counts.values()) + "\n")
        for measure, value in self._measures():
            print(f"{measure:<65} {value}")
        for fault in self.faults:
            print(f"FAULT {fault}")

    def _measures(self) -> list[tuple[str, str]]:
        kills = [kill for each in self.kills.values() for kill in each]
        num_moments = len({kill.phase for kill in kills})
        away = [kill.back_s for kill in kills if kill.back_s is not None] or [0.0]
        silent = sorted(self.longest_s) or [0.0]
        return [
            (
                "kills",
                f"{len(kills)}, at {num_moments} of {len(PHASES)} moments; {self.missed} did not come",
            ),
            ("workers that were started again", f"{sum(kill.back_s is not None for kill in kills)}"),
            ("streams heard to the end, and left by their clients", f"{self.streams['whole']}, {self.streams['left']}"),
            ("wrong, and lost", f"{self.wrong}, {self.lost}"),
            ("attempts after a request's first", f"{self.retries}"),
            (
                "longest silence of a stream, s: median, p99, longest",
                f"{statistics.median(silent):.2f}, {silent[len(silent) * 99 // 100]:.2f}, {silent[-1]:.2f}",
            ),
            (
                "until the frontend could use the worker again, s: median, longest",
                f"{statistics.median(away):.1f}, {max(away):.1f}",
            ),
            (
                "KV blocks held and leaked at the end, and seconds until then",
                f"{self.held}, {self.leaked}, {self.settle_s:.2f}",
            ),
        ]


def _label(phase: Phase) -> str:
    return f"{phase.role}: {phase.name}"
