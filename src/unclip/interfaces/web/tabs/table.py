"""The tabs in their order."""

from unclip.interfaces.web.tabs.blend import BLEND
from unclip.interfaces.web.tabs.compare import COMPARE
from unclip.interfaces.web.tabs.edit import EDIT
from unclip.interfaces.web.tabs.form import Tab
from unclip.interfaces.web.tabs.generate import GENERATE
from unclip.interfaces.web.tabs.inpaint import INPAINT
from unclip.interfaces.web.tabs.invert import INVERT
from unclip.interfaces.web.tabs.probe import PROBE
from unclip.interfaces.web.tabs.upscale import UPSCALE
from unclip.interfaces.web.tabs.vary import VARY

TABS: tuple[Tab, ...] = (
    GENERATE, VARY, BLEND, EDIT, INPAINT, INVERT, UPSCALE, PROBE, COMPARE,
)  # fmt: skip
