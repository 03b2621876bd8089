"""What docs/peers.md says of other projects, looked up in what they publish (a minute, network).

    python benchmarks/peer_claims.py [--folder .cache/peers/wheels]

Each peer is installed alone, without its dependencies, in the version that is named, and its files
are read. A claim is a text that stands in a file, or words that no file of the package has; for
cascadeflow's LangChain wrapper it is also run, with fake models. Fails if a claim does not hold.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".cache" / "peers" / "wheels"


@dataclass(frozen=True)
class Claim:
    """One thing that is said of a peer, and where it can be seen.

    Attributes:
        peer: distribution and version.
        says: the claim, as a row of the table.
        file: a file of the package; the text stands in it. Empty for a claim of absence.
        text: what stands there.
        absent: for a claim of absence, words that no Python file but a test has.
    """

    peer: str
    says: str
    file: str = ""
    text: str = ""
    absent: tuple[str, ...] = ()


CLAIMS = (
    Claim(
        "cascadeflow 1.2.0",
        "integrations for LangChain, the OpenAI Agents SDK, CrewAI, Google ADK and PydanticAI: "
        "more frameworks than this project has",
        "cascadeflow/integrations/__init__.py",
        "PydanticAI: Full cascade Model for PydanticAI agents",
    ),
    Claim(
        "cascadeflow 1.2.0",
        "a proxy that speaks OpenAI's and Anthropic's protocols; this project's gateway speaks no "
        "Anthropic",
        "cascadeflow/proxy/server.py",
        "- POST /v1/messages          (Anthropic-compatible)",
    ),
    Claim(
        "cascadeflow 1.2.0",
        "on its LangChain path quality is exp(mean log-prob) × 1.5, so that tokens of "
        "probability 0.5 score 0.75",
        "cascadeflow/integrations/langchain/utils.py",
        "min(1.0, confidence * 1.5)",
    ),
    Claim(
        "cascadeflow 1.2.0",
        "there any tool call scores 1.0; what is risky is meant to be sent on by the wrapper",
        "cascadeflow/integrations/langchain/utils.py",
        "if extract_tool_calls(response):\n            return 1.0",
    ),
    Claim(
        "cascadeflow 1.2.0",
        "confidence is not fitted to labelled examples: no Platt, isotonic or conformal step, "
        "no ECE",
        absent=("isotonic", "platt", "conformal", "brier", "expected calibration"),
    ),
    Claim(
        "cascadeflow 1.2.0",
        "without a baseline, what was saved is worked out from a fixed cost ratio of 60",
        "cascadeflow/telemetry/collector.py",
        "COST_RATIO = 60.0",
    ),
    Claim(
        "uqlm 0.6.7",
        "a library of confidence scorers (log-probs, samples, judges, long texts) that calibrates "
        "them by Platt scaling and isotonic regression",
        "uqlm/calibration/score_calibrator.py",
        "IsotonicRegression",
    ),
    Claim(
        "uqlm 0.6.7",
        "scores answers; nothing in it escalates to another model",
        absent=("escalat",),
    ),
    Claim(
        "cre-router 0.6.3",
        "bootstrap intervals that resample questions and models",
        "cre_router/bootstrap.py",
        "pigeonhole bootstrap of Owen (2007)",
    ),
    Claim(
        "cre-router 0.6.3",
        "its server refuses streams where answers are checked",
        "cre_router/server/app.py",
        "Streaming is not supported",
    ),
    Claim(
        "artemis-ai 0.7.0",
        "each saving is measured, imputed or unmeasured, and says which, as in this project",
        "artemis/savings.py",
        "unmeasured -> no token counts",
    ),
    Claim(
        "artemis-ai 0.7.0",
        "imputes the avoided call from the mean of the escalated ones, which are harder and longer "
        "([audits](audit.md#the-baseline-of-one-request))",
        "artemis/savings.py",
        "Priced at the MEAN of the escalations",
    ),
    Claim(
        "conformguard 0.2.1",
        "a guarantee by conformal prediction on tool calls; it bounds good calls that are refused, "
        "not bad ones that are accepted, and says so itself",
        "conformguard-0.2.1.dist-info/METADATA",
        "wrongly refused, not how often a *bad* one is wrongly accepted",
    ),
    Claim(
        "autodidact 1.0.7",
        "publishes that asking a model beforehand whether it can answer had an AUROC of 0.56 "
        "to 0.60",
        "autodidact/signals/grounded_self_assessment.py",
        "AUROC = 0.599",
    ),
    Claim(
        "autodidact 1.0.7",
        "prices a free local answer at the dearest cloud call seen so far",
        "autodidact/agent.py",
        'max(getattr(s, "_max_cloud_cost", 0.0), cost)',
    ),
    Claim(
        "cascade-llm 0.1.0",
        "N tiers with a bandit and budgets; an error of a provider becomes an empty answer",
        "cascade/engine.py",
        'output_text = ""',
    ),
    Claim(
        "confidence-escalation 0.3.0",
        "no dependencies, and a score that names the signals it did without",
        "confidence_escalation/scorer.py",
        '"missing_signals"',
    ),
)

RUN = """
import math
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from cascadeflow.integrations.langchain.utils import calculate_quality
from cascadeflow.langchain import CascadeFlow

logprobs = {"logprobs": {"content": [{"logprob": math.log(0.5)}]}}
message = AIMessage("Sydney")
answer = ChatResult(generations=[ChatGeneration(message=message, generation_info=logprobs)])
print(round(calculate_quality(answer), 3))
draft = GenericFakeChatModel(messages=iter([AIMessage("rejected draft, ")]))
large = GenericFakeChatModel(messages=iter([AIMessage("answer")]))
cascade = CascadeFlow(drafter=draft, verifier=large, quality_threshold=0.99)
print("".join(chunk.content for chunk in cascade.stream("a question")))
"""
SEEN = ["0.75", "rejected draft, answer"]
"""A token probability of 0.5 scores 0.75, and a rejected draft reaches the reader of a stream."""


def folder_of(peer: str, folder: Path) -> Path:
    """Where a peer is installed; it is installed where it is not."""
    name, version = peer.split()
    there = folder / f"{name}-{version}"
    if not there.exists():
        subprocess.run(
            [
                *(ROOT / "scripts" / "uv.sh", "pip", "install", "--quiet", "--no-deps"),
                *("--python", sys.executable, "--target", str(there), f"{name}=={version}"),
            ],
            check=True,
        )
    return there


def holds(claim: Claim, there: Path) -> bool:
    """Whether a claim can be seen in what the peer publishes."""
    if claim.file:
        path = there / claim.file
        return path.is_file() and claim.text in path.read_text(encoding="utf-8")
    pattern = re.compile("|".join(map(re.escape, claim.absent)), re.IGNORECASE)
    own = [path for path in there.rglob("*.py") if "tests" not in path.parts]
    found = [path for path in own if pattern.search(path.read_text(encoding="utf-8"))]
    for path in found:
        print(f"  in {path.relative_to(there)}")
    return bool(own) and not found


def run_cascadeflow(there: Path) -> list[str]:
    """What its LangChain wrapper does with two fake models."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN],
        env=os.environ | {"PYTHONPATH": str(there)},
        capture_output=True,
        text=True,
        check=True,
    )
    return [" ".join(line.split()) for line in ran.stdout.splitlines() if line.strip()]


def table() -> str:
    """The claims for docs/peers.md, each with its evidence."""
    rows = ["| peer | what is so | seen in |", "|---|---|---|"]
    for claim in CLAIMS:
        words = ", ".join(f"`{word}`" for word in claim.absent)
        place = f"`{claim.file}`" if claim.file else f"no file has {words}"
        rows.append(f"| {claim.peer} | {claim.says} | {place} |")
    return "\n".join(rows)


def main() -> int:
    """Look all claims up."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    folder = parser.parse_args().folder
    failed = 0
    for claim in CLAIMS:
        seen = holds(claim, folder_of(claim.peer, folder))
        failed += not seen
        print(f"{'ok ' if seen else 'NOT'} {claim.peer}: {claim.says}")
    printed = run_cascadeflow(folder_of("cascadeflow 1.2.0", folder))
    failed += printed[-2:] != SEEN
    print(f"cascadeflow, run: {printed[-2:]}")
    print(f"{len(CLAIMS) + 1 - failed} of {len(CLAIMS) + 1} hold")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
