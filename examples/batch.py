"""Many prompts in one call: batched by the engine, results in the order of the prompts.

``generate`` takes plain text and continues it. Sampling parameters are given once for all prompts,
as keywords or as a ``SamplingParams``; a seed makes sampled answers repeatable.
"""

from __future__ import annotations

import helexa


def main() -> None:
    with helexa.LLM("tiny", max_batch=16) as llm:
        pairs = [(a, b) for a in range(10, 20, 2) for b in range(1, 9, 2)]
        prompts = [llm.render(f"What is {a} + {b}?") for a, b in pairs]
        params = helexa.SamplingParams(temperature=0, max_tokens=32)
        results = llm.generate(prompts, params)
        right = 0
        for (a, b), result in zip(pairs, results, strict=True):
            right += str(a + b) in result.text
            print(f"{a} + {b}: {result.text}")
        tokens = sum(result.usage.completion_tokens for result in results)
        print(f"\n{right} of {len(pairs)} right, {tokens} tokens generated")

        # Four continuations of one text; the same seed gives the same four again.
        start = "Once upon a time"
        several = llm.generate(start, temperature=1.2, seed=7, n=4, max_tokens=16)
        again = llm.generate(start, temperature=1.2, seed=7, n=4, max_tokens=16)
        for choice in several.choices:
            print("-", start + choice.text)
        same = [a.text for a in several.choices] == [b.text for b in again.choices]
        print("Repeated with the same seed:", "equal" if same else "different")


if __name__ == "__main__":
    main()
