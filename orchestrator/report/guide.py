"""How to read the report: what its words mean, and what its numbers do not show."""

TERMS = (
    (
        "Source",
        "the model an attack was run on: a row of the matrix. Attacks that take gradients know its "
        "weights, query attacks only its answers.",
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
        "Ensemble",
        "several models attacked as one, as by an attacker who guesses several keys: rows below the "
        "others, without columns.",
    ),
    (
        "Control",
        "a model that shows what a key is worth: seed-N is tuned like the keyed models but without a "
        "key, same-key-N with the key of slot N from another seed, and rekeyed-N is the model of slot N "
        "rewritten for another key without training, which computes the same function.",
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
        "how far an image may be moved: a norm and a radius ε on pixels from 0 to 1; or a patch, a square "
        "of so many pixels that may hold anything; or spatial, a shift of up to a share of the side and a "
        "turn of up to that share of 300°; or colour, a change of up to ε that depends smoothly on a "
        "pixel's colour and on nothing else.",
    ),
    (
        "Colours",
        "of heatmaps follow the square root of the fooling rate, so that small rates can be told apart.",
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
    "Images were made on their source and handed to every target unchanged. The rows show what the "
    "attacks, ensembles and radii in this study's settings reach, and no more: an attacker with more keys, "
    "more steps, other attacks or the target's own answers can do better. A query attack asks its source "
    "alone; what questioning a device yields stands where source and target are the same.",
    "A key protects nothing by itself. Shuffling the pixels of a block can be undone exactly by "
    "reordering the weights of the first layer, so a keyed model may compute the very same "
    "function of a picture as a model without a key, and images made on the one then fool the "
    "other every time. Whatever keeps images from travelling comes from training that ended in "
    "different functions.",
    "Before the key is given the credit, read the controls. If images travel as little between models "
    "tuned without any key, or twice with the same one, as between different keys, the key is not the "
    "reason. Images of a rekeyed control must fool its twin every time; where they do not, something is "
    "wrong with the study. A study without controls cannot say what its keys are worth.",
)
"""What a reader must not conclude from the numbers alone."""
