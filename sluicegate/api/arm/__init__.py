"""The control plane on the wire: Azure Resource Manager's operations on ``Microsoft.CognitiveServices``."""
