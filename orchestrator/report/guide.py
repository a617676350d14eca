"""How to read the report: what its words mean, and what its numbers do not show."""

TERMS = (
    (
        "Source",
        "the model an attack was run on, with full knowledge of its weights: a row of the matrix.",
    ),
    (
        "Target",
        "the model the source's images were then tried on: a column. Where source and target are "
        "the same model (the framed diagonal), the attacker holds the very model under attack.",
    ),
    (
        "plain",
        "the undefended model, without a key. Images made on it are the non-adaptive case; images "
        "made on another key's model are the adaptive case.",
    ),
    (
        "Eligible",
        "an image that the target read correctly before the attack and that the attack changed. "
        "Only these can be fooled.",
    ),
    ("Fooled", "an eligible image that the target misreads after the attack."),
    ("Fooling rate", "fooled divided by eligible. Lower is better for the defender."),
    (
        "Robust accuracy",
        "images read correctly after the attack, out of all images: the measure of Table I. It "
        "also counts the images that were misread to begin with, so read it beside the clean "
        "accuracy.",
    ),
    (
        "Threat",
        "how far an image may be moved: a norm and a radius ε on pixels from 0 to 1.",
    ),
    (
        "Brackets",
        "95 % intervals. Those of one pair or model are Wilson's and cover the choice of images only. "
        "Those of means and differences cover the choice of images and of keys, each with its training, "
        "wherever three models or more stand behind them. The worst pair is the highest of many, so "
        "some of its height is chance. ± is the sample standard deviation over keys.",
    ),
)
"""Words of the report and their meaning."""

CAVEATS = (
    "Each attack ran on its source alone, and its images were handed to every target unchanged. An "
    "attacker who works on several models at once, chooses images for how well they travel, "
    "pushes on after the source is fooled, or questions the target directly can do better. "
    "The rates here are what such an attacker starts from, not the most that can be reached.",
    "A key protects nothing by itself. Shuffling the pixels of a block can be undone exactly by "
    "reordering the weights of the first layer, so a keyed model may compute the very same "
    "function of a picture as a model without a key, and images made on the one then fool the "
    "other every time. Whatever keeps images from travelling comes from training that ended in "
    "different functions.",
    "Before the key is given the credit, run the controls: models trained alike without any key "
    "and with different seeds, models with the same key and different seeds, and the plain model "
    "with a key folded in and no training. If images travel as little between those, the key "
    "is not the reason.",
)
"""What a reader must not conclude from the numbers alone."""
