"""Results as pictures and pages that open by a double click. Importing it teaches every noun to show itself."""

from glasshouse.core.result import draw as draw
from glasshouse.report import attributions as attributions
from glasshouse.report import circuits as circuits
from glasshouse.report import fragments as fragments
from glasshouse.report import study_nouns as study_nouns
from glasshouse.report.forms import study_form as study_form
from glasshouse.report.forms import write_form as write_form
from glasshouse.report.interrogations import interrogation_page as interrogation_page
from glasshouse.report.interrogations import interrogation_section as interrogation_section
from glasshouse.report.page import explain_page as explain_page
from glasshouse.report.page import html_page as html_page
from glasshouse.report.picture import overlay as overlay
from glasshouse.report.picture import overlay_sheet as overlay_sheet
from glasshouse.report.scenes import contact_sheet as contact_sheet
from glasshouse.report.scenes import mark_parts as mark_parts
from glasshouse.report.scenes import paint_labels as paint_labels
from glasshouse.report.scenes import stack_sheets as stack_sheets
from glasshouse.report.study_pages import study_page as study_page
from glasshouse.report.study_pages import write_study as write_study
from glasshouse.report.units import tiles as tiles
from glasshouse.report.units import unit_page as unit_page
from glasshouse.report.units import unit_section as unit_section
from glasshouse.report.views import QUICK as QUICK
from glasshouse.report.views import View as View
from glasshouse.report.views import explain as explain
