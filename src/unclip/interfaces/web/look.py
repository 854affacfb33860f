"""How the page looks: gradio's theme with fonts of the package's own, and what lies beside it."""

from importlib.resources import files
from typing import Any

import gradio as gr

_PLACE = files("unclip.interfaces.web")
CSS = (_PLACE / "page.css").read_text(encoding="utf-8")
HEAD = f"<script>{(_PLACE / 'page.js').read_text(encoding='utf-8')}</script>"


def theme() -> Any:
    """Calm greys, one violet, and fonts that come with gradio: nothing is fetched."""
    local = gr.themes.utils.fonts.LocalFont
    made = gr.themes.Base(
        primary_hue=gr.themes.colors.violet,
        secondary_hue=gr.themes.colors.violet,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_lg,
        font=(local("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"),
        font_mono=(local("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace"),
    )
    # The files of weight 600 lack most letters; 700, which is whole, is taken in its place.
    return made.set(
        input_border_width="1px",
        input_border_color="*neutral_300",
        block_border_width="0px",
        block_padding="6px 0",
        block_label_padding="2px 8px",
        block_shadow="none",
        form_gap_width="0px",
        layout_gap="12px",
        body_background_fill="*neutral_50",
        body_background_fill_dark="#0c0f17",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_color="*neutral_200",
        block_border_color_dark="#232a3d",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        input_background_fill="white",
        input_background_fill_dark="#0f1420",
        input_border_color_dark="#2b344b",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
    )
