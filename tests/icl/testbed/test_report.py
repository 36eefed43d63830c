"""Reports and cards of the weights that come with the package."""

import csv
from pathlib import Path

import pytest
from typer.testing import CliRunner

from icl.cli.testbed import app
from icl.testbed import model, report
from tests.icl.digit_chats import SHIPPED, card_scores


@pytest.mark.parametrize("weights", SHIPPED)
def test_shipped_weights_give_the_figures_of_their_card(weights: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["eval", weights, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    with (tmp_path / "testbed.csv").open() as file:
        measured = {(row["what"], row["prompt"]): row for row in csv.DictReader(file)}
    assert card_scores(weights).keys() == measured.keys()
    page = (tmp_path / "testbed.md").read_text()
    for key, score in card_scores(weights).items():
        # exact but for ties that another processor rounds another way
        row = measured[key]
        assert int(row["prompts"]) == score.prompts
        assert abs(int(row["right"]) / int(row["prompts"]) - score.accuracy) <= 0.01, key
        assert f"{float(row['accuracy']):.3f} ({float(row['low']):.2f}-" in page
    assert (tmp_path / "testbed.png").stat().st_size > 10_000


@pytest.mark.parametrize("weights", SHIPPED)
def test_card(weights: str) -> None:
    card, folder = report.read_card(weights), model.weights_folder(weights)
    assert card["parameters"] == 335_808
    assert (folder / "model.safetensors").stat().st_size < 2e6
    assert report.card_markdown(card) == (folder / "card.md").read_text()
    assert card["command"] in " ".join(CliRunner().invoke(app, ["card", weights]).output.split())
