"""Found through PYTHONPATH by processes that tests start: puts scripted stages in place of the real ones, and a wrong
clock in place of the right one where ``FAULTS_CLOCK_OFF_S`` says by how many seconds.
"""

import os
import time

from tests.support.stages import install

if off_s := float(os.environ.get("FAULTS_CLOCK_OFF_S", "0")):
    right, right_ns = time.time, time.time_ns
    time.time = lambda: right() + off_s
    time.time_ns = lambda: right_ns() + int(off_s * 1e9)

install()
