"""The card of an autoencoder, rendered from its numbers alone: `python -m circuits.organisms.sae_card DIR`."""

import argparse
import json
from pathlib import Path
from string import Template
from typing import Any, Final

from circuits.organisms.architecture import ARCHITECTURES

TEXT: Final = Path(__file__).with_name("sae_card_template.md")


def render(card: dict[str, Any]) -> str:
    """Markdown; every number in it stands in `card`."""
    recipe, found = card["recipe"], card["reconstruction"]
    brand = next((a.brand for name, a in ARCHITECTURES.items() if f"refusal-{name}" == card["model"]), "")
    disclaimer = f"Its model is not {brand}, and nothing here was trained on {brand}." if brand else ""
    features = card["features"]
    return Template(TEXT.read_text(encoding="utf-8")).substitute(
        name=f"{card['model']}, {card['site']}", model=card["model"], title=card["title"], disclaimer=disclaimer,
        site=card["site"], hook=card["hook_name"], width=card["width"], n_features=card["n_features"],
        architecture=card["architecture"], megabytes=f"{card['megabytes']:.2f}", texts=card["texts"],
        positions=card["positions"], l0=f"{features['l0']:.1f}", dead=_percent(features["dead"]),
        frequent=_percent(features["frequent"]), density=_percent(features["median_density"]),
        explained="\n".join(f"| {name} | {value:.4f} |" for name, value in found.items()),
        losses="\n".join(_loss(name, loss) for name, loss in card["loss"].items()),
        trained_texts=recipe["texts"], steps=recipe["steps"], batch=recipe["batch"], k=f"{recipe['k']:g}",
        layer=recipe["layer"], kind=recipe["site"], seed=recipe["seed"], seconds=f"{card['wall_seconds']:.0f}",
    )  # fmt: skip


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _loss(name: str, loss: dict[str, float]) -> str:
    columns = (
        "left",
        "reconstructed",
        "mean_ablated",
        "zero_ablated",
        "recovered_of_mean_ablated",
        "recovered_of_zero_ablated",
    )
    return f"| {name} | " + " | ".join(f"{loss[column]:.4f}" for column in columns) + " |"


def main(arguments: list[str] | None = None) -> None:
    """Render README.md of a folder again from its card.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR")
    folder: Path = parser.parse_args(arguments).folder
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    (folder / "README.md").write_text(render(card), encoding="utf-8")


if __name__ == "__main__":
    main()
