# SPDX-License-Identifier: BSD-3-Clause
"""The QAPI generator: from schema files to C types, tables, dispatch, events and introspection."""
