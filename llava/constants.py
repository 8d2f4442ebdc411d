"""Names that LLaVA checkpoints and prompts agree on."""

IMAGE_TOKEN = "<image>"  # placeholder in a prompt; stands for all image tokens of one picture
IMAGE_START, IMAGE_END = "<im_start>", "<im_end>"  # around the image in checkpoints with mm_use_im_start_end
IMAGE_PATCH = "<im_patch>"  # takes an id in checkpoints with mm_use_im_patch_token, never used in a prompt
SPACE_TOKEN = "▁"  # SentencePiece's piece for a space that belongs to no word
