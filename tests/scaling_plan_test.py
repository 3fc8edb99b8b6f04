#!/usr/bin/env python3
"""The plan on paper (tools/scaling_plan.py) against what two GPUs were measured to take, and docs/scaling.md's tables
against the plan. Standard library only.
"""
import importlib.util
import json
import pathlib
import unittest

REPO = pathlib.Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("scaling_plan", REPO / "tools" / "scaling_plan.py")
plan = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plan)

EXPERT_BITS = {"fp8": 8, "w4": 4.25}
WHOLE = {"m2": 62, "mimo": 48}


def results(name):
    return json.loads((REPO / "bench" / "results" / name).read_text())


def beyond_us(line):
    """What a layer of M2 in FP8 took beyond the plan."""
    model = {**plan.M2, "layers": plan.M2["layers"][:line["layers"]]}
    gpus = line.get("gpus", 1)
    floor = sum(plan.decode_ms(model, gpus, gpus, 1, 8, line["batch"], line["context"]))
    return (line["ms"] - floor) / line["layers"] * 1e3


class ScalingPlan(unittest.TestCase):
    def test_measured_steps_lie_above_the_floor_and_near_it(self):
        checked = 0
        for line in results("gpu-ranks-h200.json")["device"]:
            if line.get("bench") != "decode" or line["gpus"] != 2 or line["layers"] != WHOLE[line["model"]]:
                continue
            model = plan.M2 if line["model"] == "m2" else plan.MIMO
            floor = sum(plan.decode_ms(model, 2, 2, 1, EXPERT_BITS[line["format"]], line["batch"], line["context"]))
            self.assertLess(floor, line["ms"], line)
            # One token is ruled by latencies, many by bytes.
            self.assertLess(line["ms"], floor * (1.7 if line["batch"] == 1 else 1.5), line)
            checked += 1
        self.assertGreaterEqual(checked, 6)

    def test_what_a_layer_takes_beyond_the_plan_is_not_shared_by_ranks(self):
        beyond = {(line["gpus"], line["batch"]): beyond_us(line) for line in results("gpu-ranks-h200.json")["device"]
                  if line.get("bench") == "decode" and line["layers"] == 31}
        for batch in (1, 8, 32, 96):
            self.assertTrue(0.65 < beyond[2, batch] / beyond[1, batch] < 1, beyond)
        self.assertAlmostEqual(plan.PIECES["beyond_a_layer_us"][32], beyond[2, 32], delta=0.1)
        one = [beyond_us(line) for line in results("gpu-one-token.json")["decode"]
               if line["build"] == "with" and line["model"] == "m2" and line["format"] == "fp8"]
        self.assertAlmostEqual(plan.PIECES["beyond_a_layer_us"][1], sum(one) / len(one), delta=0.1)

    def test_the_tables_of_the_document_are_the_plans(self):
        text = (REPO / "docs" / "scaling.md").read_text()
        for model, name in ((plan.M2, "MiniMax-M2, FP8:"), (plan.MIMO, "MiMo-V2-Flash, FP8:")):
            table = text[text.index(name):].split("\n\n")[0].split("\n")[3:]
            self.assertGreaterEqual(len(table), 13)
            for row in table:
                gpus, experts, weights, b1, b32, b256, parts = [cell.strip() for cell in row.strip("|").split("|")]
                ranks = int(gpus)
                tensor, expert = {"tp": (ranks, 1), "ep": (1, ranks)}.get(experts) or map(int, experts.split("x"))
                held = plan.rank_bytes(model, ranks, tensor, expert, 8)["weights"]
                steps = [plan.decode_ms(model, ranks, tensor, expert, 8, batch) for batch in (1, 32, 256)]
                expected = [f"{held / 1e9:.1f} GB", *(f"{sum(step):.2f}" for step in steps),
                            ", ".join(f"{part:.2f}" for part in steps[0])]
                self.assertEqual([weights, b1, b32, b256, parts], expected, row)
        table = text[text.index("M2 in FP8, tp, to expect:"):].split("\n\n")[0].split("\n")
        gpus = [int(cell) for cell in table[1].strip("|").split("|")[1:]]
        for row, batch in ((table[3], 1), (table[4], 32)):
            self.assertEqual([cell.strip() for cell in row.strip("|").split("|")[1:]],
                             [f"{plan.expected_ms(plan.M2, n, n, 1, 8, batch):.1f} ms" for n in gpus], row)


if __name__ == "__main__":
    unittest.main(verbosity=2)
