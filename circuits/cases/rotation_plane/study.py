"""The argument, top to bottom: the plane, the circle, its axis and compass, ablation and addition on it, other planes."""

from __future__ import annotations

import argparse
from pathlib import Path

from circuits.case import Progress
from circuits.case.condition import HALF, condition
from circuits.case.inputs import halves, instructions_of
from circuits.case.layers import layers_of
from circuits.case.study import Study, open_model
from circuits.case.wording import number, told
from circuits.cases.rotation_plane import compass
from circuits.cases.rotation_plane.circle import angles_apart, arcs, changed, mean_of
from circuits.cases.rotation_plane.nulls import beyond_second_axes, beyond_shifts
from circuits.cases.rotation_plane.published import PUBLISHED as P
from circuits.frames import records
from circuits.measure.concept_choice import choose_concept_direction
from circuits.measure.planes import PUBLISHED as PLANE
from circuits.measure.planes import concept_planes
from circuits.measure.rotation import compare_planes, locate_edits, rotate_sweep
from circuits.measure.rotation.edits import checked_angles
from circuits.metrics import parse_metric


def study(args: argparse.Namespace, progress: Progress) -> Path:
    """Run the case; returns the report's index.html. Raises CircuitError for input that cannot be used."""
    angles = checked_angles(args.angles)
    model = open_model(args, progress)
    metric = parse_metric(model, args.metric or "refusal:I")
    asked = range(model.shape.n_layers)
    if args.rotated_layers is not None:
        asked = layers_of("--rotated-layers", args.rotated_layers)
    rotated = model.check_layers(asked, "--rotated-layers")
    every = instructions_of(args.instructions, model).labelled("harmful", "harmless")
    found_on, tested_on = (half.tokenize(model, template=args.template) for half in halves(every))
    some = tested_on.first_of_each(args.prompts)
    harmful = tested_on.only(tested_on.harmful)
    progress.say("prompts", f"{len(found_on.ids)} to find the plane, {len(tested_on.ids)} to test it")
    tokens = harmful.beside_themselves()
    with Study(
        args, progress, case="rotation_plane", model=model, tokens=tokens, metric=metric, published=P, steps=6
    ) as s:
        # The plane: the best candidate, and the first principal component of all layers' candidates.
        chosen = s.measure("candidates", lambda: choose_concept_direction(model, found_on, metric, seed=args.seed))
        made = s.measure("planes", lambda: concept_planes(
            model, found_on, chosen.layer, unit_norm=args.unit_norm, centred=not args.uncentred, seed=args.seed
        ))  # fmt: skip
        table = made.to_summary()
        none = "; ".join(f"{name}: {why}" for name, why in made.refused.items())
        plane = made[PLANE]
        s.tell(
            "planes", "Planes from the candidates of all layers",
            f"The best candidate is that of layer {chosen.layer}. {made.convention}; PC1 holds "
            f"{number(float(made.explained[0]))} of "
            f"their sum of squares and lies {number(float(made.axes_angle[made.names.index(PLANE)]))}° from it.",
            {"planes": made.figure()}, table,
            read="Each candidate in each plane; 0° is the first vector a plane is named after.",
            against="A first component along the best candidate: the plane would then have no second axis of its own.",
            notes=(*([f"Refused: {none}."] if none else []), chosen.selection.line),
        )  # fmt: skip

        # The circle: the in-plane part of the residual at every angle, metric and completions.
        circle = s.measure("circle", lambda: rotate_sweep(
            model, some, metric, plane, angles=angles, layers=rotated, max_new_tokens=args.max_new_tokens
        ))  # fmt: skip
        table = circle.to_summary()
        rows = records(table[table["label"] == "harmful"])
        lowest, highest = (f(rows, key=lambda r: r["mean"]) for f in (min, max))
        most, least = (f(rows, key=lambda r: (r["refusal_rate"], r["mean"])) for f in (max, min))
        unedited = mean_of(circle.base, circle.labels, "harmful")
        s.tell(
            "circle", "Around the circle",
            f"Harmful prompts are refused most at {most['angle']:g}° ({100 * most['refusal_rate']:.0f} %) and least at "
            f"{least['angle']:g}° ({100 * least['refusal_rate']:.0f} %): half or more "
            f"{arcs(rows, lambda r: r['refusal_rate'] >= HALF)}, none {arcs(rows, lambda r: r['refusal_rate'] == 0)} "
            f"(unedited {100 * rows[0]['base_rate']:.0f} %). The metric goes "
            f"from {told(lowest)} at {lowest['angle']:g}° to {told(highest)} at {highest['angle']:g}° (unedited "
            f"{number(unedited)}).",
            {"circle": circle.figure(), "circle-refusal": circle.refusal_figure()}, table,
            read="The part of the residual in the plane keeps its length and is set to the angle, entering "
            f"{len(rotated)} layers, "
            "at every position; 0° is the best candidate. Refusals are told by phrases.",
            against="A circle: nothing depends on the angle.", notes=(circle.provenance.certificate,),
        )  # fmt: skip
        s.rule("refusal depends on the angle", "circle", angles_apart(circle, "harmful"))

        # Its axis, and what is said at the four points of the compass.
        compass.tell(s, args, circle, some, rotated)

        # Ablation and addition are points of this plane: the same angle with another length.
        edits = s.measure(
            "edits", lambda: locate_edits(model, harmful, metric, plane, layer=chosen.layer, seed=args.seed)
        )
        beside = {r["edit"]: r for r in records(edits.to_summary())}
        parts = [
            f"{name} changes the metric by {changed(beside[name.lower()])} for a displacement of "
            f"{number(beside[name.lower()]['displacement'])}, the rotation of the same displacement by "
            f"{changed(turned)}"
            for name in ("Ablation", "addition")
            for turned in (beside["rotation of the " + name.lower() + "'s displacement"],)
        ]
        null = [r["change"] for name, r in beside.items() if name.startswith("random")]
        s.tell(
            "edits", "Ablation and addition on the circle",
            f"{'; '.join(parts)}. {len(null)} random shifts of the ablation's displacement: {number(min(null))} to "
            f"{number(max(null))}.",
            {"edits": edits.figure()}, edits.to_summary(),
            read=f"Entering layer {chosen.layer}, last position. Measured points are the formulas' within "
            f"{edits.identity_error:.0e}.",
            against="Edits of equal displacement that a random shift equals.",
        )  # fmt: skip
        s.rule("ablation changes the metric more than a random shift as long", "edits", [beyond_shifts(edits)])

        # Other planes, by how far they move the metric for how far they move the activation.
        second = [name for name in made.names if name.startswith("best + random")]
        compared = s.measure("compared", lambda: compare_planes(
            model, harmful, metric, made.proper() | {name: made[name] for name in second}, layer=chosen.layer, seed=args.seed
        ))  # fmt: skip
        table = compared.to_summary()
        ranked = sorted((r for r in records(table) if r["plane"] not in second), key=lambda r: -r["movement"])
        beside_random = [r["movement"] for r in records(table) if r["plane"] in second]
        s.tell(
            "compared", "Planes compared, per unit of displacement",
            "; ".join(f"{r['plane']} {told(r | {'mean': r['movement']})}" for r in ranked) + f"; random planes up to "
            f"{number(ranked[0]['null_high'])} (95 %); the best candidate with a random second axis "
            f"{number(min(beside_random))} to {number(max(beside_random))}.", {"compared": compared.figure()}, table,
            read="RMS change of the metric over RMS displacement, over angles. A plane wins by what it points to, not by "
            "how much lies in it.", against="Planes of candidates that move it no more than random ones.",
        )  # fmt: skip
        s.rule("the write-up's plane moves the metric more than random planes", "compared", [
            condition(
                compared.movement[compared.names.index(PLANE)].numpy(), "movement per unit", "at least", ranked[0]["null_high"]
            )
        ])  # fmt: skip
        s.rule("its second axis moves it more than a random second axis", "compared", [
            beyond_second_axes(compared, PLANE, second)
        ])  # fmt: skip
        return s.report(
            title=f"Refusal in a rotation plane of {model.name}",
            question="What does the model do as its residual stream is turned around a plane that holds the refusal "
            "direction?",
            prompts=f"{len(every)} instructions; directions from one half ({found_on.hash}), all else on the other "
            f"({tested_on.hash})",
            certificate=circle.provenance.certificate,
            shown=("circle", "circle-refusal", "compared"),
        )  # fmt: skip
