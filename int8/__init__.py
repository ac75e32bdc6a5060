"""SD3's parts as int8 ONNX models: calibrated, traced, stored layer by layer, measured, and run.

The backbone does not know it: a session has the same call as the part it stands in for.
"""
