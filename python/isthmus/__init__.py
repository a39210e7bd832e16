"""isthmus takes a PyTorch or Hugging Face model into C++, with proof."""
