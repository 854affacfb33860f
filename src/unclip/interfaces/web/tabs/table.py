"""The tabs in their order."""

from unclip.interfaces.web.tabs.form import Tab
from unclip.interfaces.web.tabs.generate import GENERATE
from unclip.interfaces.web.tabs.vary import VARY

TABS: tuple[Tab, ...] = (GENERATE, VARY)
