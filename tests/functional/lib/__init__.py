# SPDX-License-Identifier: BSD-3-Clause
"""Helpers shared by the functional tests, scripts/demo and scripts/bench."""
