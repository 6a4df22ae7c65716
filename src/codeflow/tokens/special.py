"""Special tokens of the recipe (Code-Flow §2) and of the chat format, at fixed ids from 0; ordinary words follow."""

from __future__ import annotations

PAD = "<|pad|>"
BOS = "<|bos|>"
END_OF_TEXT = "<|endoftext|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
FIM_PREFIX = "<|fim_prefix|>"
FIM_SUFFIX = "<|fim_suffix|>"
FIM_MIDDLE = "<|fim_middle|>"
REPO_NAME = "<|repo_name|>"
FILE_SEP = "<|file_sep|>"
THINK = "<think>"
END_THINK = "</think>"
TOOL_CALL = "<tool_call>"
END_TOOL_CALL = "</tool_call>"
TOOL_RESPONSE = "<tool_response>"
END_TOOL_RESPONSE = "</tool_response>"

# The order is the order of ids and part of every published checkpoint: append, never insert.
SPECIAL_TOKENS: tuple[str, ...] = (
    PAD,
    BOS,
    END_OF_TEXT,
    IM_START,
    IM_END,
    FIM_PREFIX,
    FIM_SUFFIX,
    FIM_MIDDLE,
    REPO_NAME,
    FILE_SEP,
    THINK,
    END_THINK,
    TOOL_CALL,
    END_TOOL_CALL,
    TOOL_RESPONSE,
    END_TOOL_RESPONSE,
)

SPECIAL_IDS: dict[str, int] = {name: index for index, name in enumerate(SPECIAL_TOKENS)}
PAD_ID = SPECIAL_IDS[PAD]
END_OF_TEXT_ID = SPECIAL_IDS[END_OF_TEXT]
IM_END_ID = SPECIAL_IDS[IM_END]
