"""`d90 convert`: a tune in a form that other libraries load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from d90.cli.options import echo, make_notices

TuneArg = Annotated[Path, typer.Argument(help="A tune written by 'd90 train', its recipe beside it.")]
ToOpt = Annotated[str, typer.Option("--to", help="peft: theta, loaded where d90 is installed. lora: a plain adapter.")]
RankOpt = Annotated[
    int | None, typer.Option("--rank", "-r", help="For lora, of a tune that was not trained as LoRA: cut its change.")
]
OutOpt = Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")]
CheckOpt = Annotated[bool, typer.Option(help="For lora: score tune and folder on the validation split.")]


def convert(tune: TuneArg, to: ToOpt, out: OutOpt, rank: RankOpt = None, check: CheckOpt = True) -> None:
    """Write a tune as a folder that peft loads."""
    from d90.integrations.convert import convert as run
    from d90.tasks.metrics import to_display

    found = run(tune, to, out, rank, check, make_notices())
    size = sum(file.stat().st_size for file in found.folder.glob("*.safetensors"))
    if found.form == "peft":
        echo(f"wrote {out}: theta as it is ({size:,} bytes); 'import d90.integrations.peft' before peft loads it")
        if found.note:
            echo(found.note)
        return
    held = "exactly" if found.exact else f"{100 * found.kept:.2f} % of the change's squared norm"
    echo(f"wrote {out}: a LoRA adapter of rank {found.rank} ({size:,} bytes), which holds {held}")
    if found.lost:
        shown = sorted(found.lost, key=lambda name: -found.lost[name] if found.lost else 0.0)
        share = 100 * sum(found.lost.values())
        echo(
            f"LoRA cannot hold {len(shown)} parameters that moved ({share:.2f} %): {', '.join(shown[:8])}"
            + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")
        )
    if found.before is not None and found.after is not None:
        before, after = to_display(found.before, found.metric), to_display(found.after, found.metric)
        echo(f"{found.metric} {before:.4f} with the tune, {after:.4f} with the folder (validation)")
    for line in found.serve:
        echo(line)
