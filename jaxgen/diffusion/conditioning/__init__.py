"""Functions from denoisers to denoisers, and uses of them: guidance, inpainting, editing."""
