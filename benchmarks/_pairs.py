"""The fourteen pairs of small and large model that `decision_quality` measures, and their rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cascade.confidence.metrics import Array
from cascade.evaluation import Outcome, Transcript, read_transcripts
from cascade.evaluation.features import normalise, number
from cascade.evaluation.recorded import Recorded, Rows, record_pair

GPT4 = "gpt-4-1106-preview"
SC3 = "gpt-4/cot1-sc3"
MIXTURE = "mixture-of-thought"
VOTES_PER_PROMPT = int((20 - 8 * 0.75) / 2)
MIXTURES = {
    "mot_date_gpt35": ("gpt-3.5-turbo/cot1", "gpt-3.5-turbo/pot1"),
    "mot_date_llama2": ("llama-2-13b/cot2", "llama-2-13b/pot2"),
}


@dataclass(frozen=True)
class Pair:
    """`raw` is the single signal that is the baseline: raw, margin_p, short or agree:MODEL."""

    set_name: str
    small: str
    large: str
    raw: str = "raw"

    @property
    def name(self) -> str:
        return f"{self.set_name} {self.small.split('/')[-1]} > {self.large.split('/')[0]}"

    def raw_score(self, recorded: Recorded, fit: Rows) -> Array:
        """The baseline signal as a number in [0, 1], not calibrated."""
        if self.raw.startswith("agree:"):
            return recorded.panel((self.raw.removeprefix("agree:"),)).column("panel_same")
        if self.raw == "short":
            length = recorded.prompt.column("log_chars")
            return 1.0 - np.searchsorted(np.sort(length[fit]), length) / len(fit)
        if self.raw == "margin_p":
            return recorded.raw_score() - np.exp(recorded.draft.column("rank1"))
        return recorded.raw_score()


PAIRS = (
    Pair("lub_mmlu", "Yi-34B", GPT4),
    Pair("lub_mmlu", "Llama-2-13b-hf", GPT4),
    Pair("lub_mmlu", "Mistral-7B-v0.1", "Yi-34B"),
    Pair("lub_mmlu", "Yi-6B", "Yi-34B", "margin_p"),
    Pair("lub_mmlu", "Qwen-14B", "Qwen-72B"),
    Pair("lub_mmlu", "Qwen-1_8B", "Qwen-72B"),
    Pair("mot_date_gpt35", "gpt-3.5-turbo/pot1", SC3),
    Pair("mot_date_gpt35", MIXTURE, SC3),
    Pair("mot_date_llama2", MIXTURE, SC3),
    Pair("mot_gsm8k_llama2", "llama-2-13b/pot2", SC3),
    Pair("gsm8k_multi", "abel-7b", "gpt-4-0613/greedy-cot1", "agree:Mixtral-8x7B-Instruct-v0.1"),
    Pair(
        "mmlu_pro",
        "Meta-Llama-3_1-8B-Instruct",
        "gemini-1.5-pro-002",
        "agree:Phi-3-mini-4k-instruct",
    ),
    Pair("routellm_mmlu", "Mixtral-8x7B-Instruct-v0.1", GPT4, "short"),
    Pair("routerbench_arc", "mistralai/mistral-7b-chat", GPT4, "agree:WizardLM/WizardLM-13B-V1.2"),
)


@dataclass(frozen=True)
class Split:
    """Rows of a set for fitting and for the figures."""

    fit: Rows
    test: Rows
    seed: int


def random_splits(n: int, count: int) -> Iterator[Split]:
    for seed in range(count):
        order = np.random.default_rng(seed).permutation(n)
        yield Split(order[: n // 2], order[n // 2 :], seed)


@dataclass
class OneSet:
    """All rows of a set, its pairs, and where the rows of each pair stand among them."""

    name: str
    rows: list[Transcript]
    pairs: list[tuple[Pair, Recorded]]

    def __post_init__(self) -> None:
        place = {id(row): i for i, row in enumerate(self.rows)}
        self.places = {
            pair.name: np.array([place[id(row)] for row in recorded.rows])
            for pair, recorded in self.pairs
        }

    def positions(self, pair: Pair, part: Rows) -> Rows:
        """Rows of the pair that belong to a part of the set, in the part's order."""
        places = self.places[pair.name]
        own = np.full(len(self.rows), -1)
        own[places] = np.arange(len(places))
        found: Rows = own[part]
        return found[found >= 0]


def load_set(name: str, rows: list[Transcript]) -> OneSet:
    pairs = [(p, record_pair(rows, p.small, p.large)) for p in PAIRS if p.set_name == name]
    return OneSet(name, rows, pairs)


def set_files(folder: Path) -> dict[str, list[Path]]:
    """Files by the set's name, which is what stands before the first dot."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.jsonl*")):
        found.setdefault(path.name.split(".")[0], []).append(path)
    return found


def read_rows(name: str, paths: list[Path]) -> list[Transcript]:
    rows = [row for path in paths for row in read_transcripts(path)]
    prompts = MIXTURES.get(name)
    return [_with_mixture(row, prompts) for row in rows] if prompts else rows


def _with_mixture(row: Transcript, prompts: tuple[str, str]) -> Transcript:
    """The row with the mixture-of-thought draft as one more model (2310.03094, MoT-1D).

    The first samples of two prompts vote together; its price is both prompts once and the
    output of the samples used.
    """
    votes, cost = [], 0.0
    for prompt in prompts:
        outcome = row.models[prompt]
        recorded = outcome.signals["votes"]
        votes += recorded[:VOTES_PER_PROMPT] if isinstance(recorded, list) else []
        first, all_of_them = outcome.cost_usd_single or 0.0, outcome.cost_usd or 0.0
        others = max(number(outcome.signals["n_samples"]) - 1, 1)
        cost += first + (VOTES_PER_PROMPT - 1) * (all_of_them - first) / others
    answer = Counter(map(str, votes)).most_common(1)[0][0] if votes else None
    right = normalise(answer) == normalise(row.reference)
    draft = Outcome(
        pred=answer,
        correct=float(right),
        input_tokens=None,
        output_tokens=None,
        cost_usd=cost,
        signals={"votes": votes, "n_samples": VOTES_PER_PROMPT * len(prompts)},
    )
    return row.model_copy(update={"models": {**row.models, MIXTURE: draft}})
