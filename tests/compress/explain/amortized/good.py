"""Figures of a selector that explains something."""

from __future__ import annotations

from slimsight.compress.explain import SelectorQuality

GOOD = SelectorQuality(
    mean_area=0.25,
    sigma_p10=3.0,
    sigma_median=4.0,
    sigma_p90=5.0,
    centre_spread=2.0,
    kl=0.5,
    kl_predicted_label=0.5,
    kl_centred=0.7,
    kl_centred_same_area=0.7,
    kl_random=0.9,
    kl_random_same_area=0.8,
    gain_centred=0.2,
    gain_centred_error=0.05,
    gain_random=0.3,
    gain_random_error=0.06,
    cornered=0.1,
    images=20,
)
