"""``edge-convert``: convert, measure, explain and compare models without a server.

Results go to stdout, words to stderr. Exit codes: 0 done, 1 refused, 2 wrong use.
"""

import typer

from converters.cli import commands

app = typer.Typer(
    help="Turn a trained model into a checked package for one kind of device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(
    epilog="Example: edge-convert run model.skops --rows wine.csv --target cultivar"
    " --profile camera --out wine.tar\n\nPictures: edge-convert run network.onnx --pictures photos/"
    " --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --profile camera --out photos.tar"
)(commands.run)
app.command(
    epilog="Example: edge-convert bench model.skops --rows wine.csv --target cultivar"
    " --profile camera"
)(commands.bench)
app.command(epilog="Example: edge-convert inspect wine.tar --profile raspberry-pi-3")(
    commands.inspect
)
app.command(
    epilog="Example: edge-convert parity model.skops wine.tar --rows wine.csv --target cultivar\n\n"
    "Pictures: edge-convert parity network.onnx photos.tar --pictures photos/"
)(commands.parity)


def main() -> None:
    """Run the command line."""
    app()
