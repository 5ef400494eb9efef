"""Small chat templates that treat content the ways that models' own ones do."""

from __future__ import annotations

from typing import Final

_RULES: Final = (
    "{%- if tools %}{{- '<tools>' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}"
    "{{- '</tools>' }}{%- endif %}"
)

STRINGS: Final = {
    # What is not a string is silently nothing.
    "else nothing": _RULES
    + """
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}""",
    # A list is shown as Python writes it.
    "trimmed": _RULES
    + """
{%- for message in messages %}
    {{- '[' + message['role'] + ']\\n\\n' + message['content'] | trim + '[end]' }}
{%- endfor %}""",
    "tilde": _RULES
    + """
{%- for message in messages %}
    {%- if message['role'] == 'assistant' %}
        {{- ' ' ~ message['content'] ~ eos_token }}
    {%- else %}
        {{- '[I] ' ~ message['content'] ~ ' [/I]' }}
    {%- endif %}
{%- endfor %}""",
    # Results are JSON where they are no strings, everything else is trimmed.
    "results as json": _RULES
    + """
{%- for message in messages %}
    {%- if message.role == 'tool' and message.content is not string %}
        {{- '[result]' + message.content | tojson }}
    {%- else %}
        {{- '[' + message['role'] + ']' + message['content'] | trim }}
    {%- endif %}
{%- endfor %}""",
    # A list fails.
    "concatenated": _RULES
    + """
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}""",
    "strict": _RULES
    + """
{%- for message in messages %}
    {%- if message.content is not string %}
        {{- raise_exception('content must be text') }}
    {%- endif %}
    {{- message.role ~ ': ' ~ message.content ~ '\\n' }}
{%- endfor %}""",
}

BOTH: Final = {
    "loop": """
{%- for message in messages %}
    {{- '[' ~ message.role ~ ']' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content %}
            {%- if part.type == 'text' %}{{- part.text }}{%- endif %}
        {%- endfor %}
    {%- endif %}
{%- endfor %}""",
    "filters": """
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set text = message.content %}
    {%- else %}
        {%- set texts = message.content | selectattr('type', 'equalto', 'text') %}
        {%- set text = texts | map(attribute='text') | join('') %}
    {%- endif %}
    {{- '[' ~ message.role ~ ']' ~ text }}
{%- endfor %}""",
}

# A vision model's: its user's content is parts, all other is text.
USER_PARTS: Final = """
{%- for message in messages %}
    {{- '[' + message.role + ']' }}
    {%- if message.role == 'user' and message.content is not string %}
        {%- for part in message.content %}
            {{- '<image>' if part.type == 'image' else '<' + part.text + '>' }}
        {%- endfor %}
    {%- else %}
        {{- message.content | trim }}
    {%- endif %}
{%- endfor %}"""
