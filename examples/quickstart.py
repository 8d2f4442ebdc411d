"""Where the heads of the shipped model look, in five lines: python -m examples.quickstart"""

from lab.api import load


def main() -> None:
    model = load("examples/models/picturebook")  # any folder, hub id or preset: load("llava15_7b")
    for found in model.find("examples/images/cat.png", ["a cat on the floor", "the umbrella"]):
        heads = ", ".join(f"L{layer} H{head}" for layer, head in found.heads)
        print(f"{found.expression}: box {found.box_xyxy}, {found.mask.mean():.1%} of the picture, by {heads}")
        found.show()  # a window where there is a display; in a notebook the figure


if __name__ == "__main__":
    main()
