"""The log holds every step once."""

import json

from trainer.record import RunLog


def test_the_log_of_a_resumed_run_holds_every_step_once(tmp_path):
    with RunLog(tmp_path, step=0, num_steps=5) as log:
        for step in (1, 2, 3):
            log.write("train", step, loss=1.0 / step, note="text")
        log.write("val", 3, loss=float("nan"))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "ki')  # cut by a kill
        file.write('\n{"step": null}\n[1]\nwritten by hand\n')
    with RunLog(tmp_path, step=2, num_steps=5) as log:
        log.write("train", 3, loss=0.5)
        log.write("val", 3, loss=float("nan"))
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(r["step"], r["kind"], r["loss"]) for r in records] == [
        (1, "train", 1.0),
        (2, "train", 0.5),
        (3, "train", 0.5),
        (3, "val", None),
    ]
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_run_that_was_killed_before_its_first_checkpoint_has_one_record_of_step_0(tmp_path):
    for _ in range(2):
        with RunLog(tmp_path, step=0, num_steps=5) as log:
            log.write("probe", 0, n=3)
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [0]
