"""Chat templates that render tools, like Qwen's and Llama's, and a chat with a tool call."""

from typing import Any, Final

QWEN: Final = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' + messages[0].content + '\\n\\n# Tools\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' + tool | tojson }}{%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- else %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}
{%- for message in messages[1:] %}
    {{- '<|im_start|>' + ('user' if message.role == 'tool' else message.role) }}
    {%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
    {%- for call in message.tool_calls or [] %}
        {{- '\\n<tool_call>\\n' + call.function.name + call.function.arguments | tojson }}
        {{- '\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
LLAMA: Final = """\
{{- '<|im_start|>system<|sep|>' + messages[0].content }}
{%- if tools %}{{- '\\nTools: ' + tools | tojson }}{%- endif %}{{- '<|im_end|>' }}
{%- for message in messages[1:] %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>ipython<|sep|>' + message.content | tojson + '<|im_end|>' }}
    {%- elif message.tool_calls %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|im_start|>assistant<|sep|>' + '{"name": "' + call.name + '"}<|im_end|>' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '<|sep|>' + message.content | trim + '<|im_end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant<|sep|>' }}{%- endif %}
"""
SPECIALS: Final = ("<|im_start|>", "<|im_end|>", "<|sep|>", "<tool_call>", "</tool_call>")

TOOLS: Final[list[dict[str, Any]]] = [
    {
        "type": "function",
        "function": {
            "name": "tide",
            "description": "Return when the tide is high.",
            "parameters": {"type": "object", "properties": {"day": {"type": "string"}}},
        },
    }
]
CALL: Final[dict[str, Any]] = {
    "id": "call-1",
    "type": "function",
    "function": {"name": "tide", "arguments": '{"day": "today"}'},
}
MESSAGES: Final[list[dict[str, Any]]] = [
    {"role": "system", "content": "You help sailors."},
    {"role": "user", "content": "When is high tide?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "12:05", "tool_call_id": "call-1"},
    {"role": "assistant", "content": "At five past noon."},
    {"role": "user", "content": "And tomorrow?", "name": "anna"},
]
