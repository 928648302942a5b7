# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""How a conversation is written as one sequence."""

VQA_PROMPT = "Question: {question} Answer:"
QUESTION_START, QUESTION_END = VQA_PROMPT.split("{question}")
TURN_END = "\n"  # after an answer, where the chat goes on

# Images before the question stay in front of it, as in the release; a turn of images alone asks for a caption. The
# text of system messages precedes the first question, and is a question itself in a turn of images alone.
CHAT_TEMPLATE = (
    """\
{%- set chat = namespace(system='') -%}
{%- for message in messages -%}
    {%- set content = message['content'] -%}
    {%- if content is string -%}
        {%- set content = [{'type': 'text', 'text': content}] -%}
    {%- endif -%}
    {%- if message['role'] in ('system', 'developer') -%}
        {%- for part in content -%}
            {%- if part['type'] == 'image' -%}
                {{- raise_exception('LaVIT reads images of users and assistants, not of ' + message['role']) -}}
            {%- endif -%}
            {%- set chat.system = chat.system + part['text'] + ' ' -%}
        {%- endfor -%}
    {%- elif message['role'] == 'user' -%}
        {%- set turn = namespace(in_question=false) -%}
        {%- for part in content -%}
            {%- if part['type'] == 'image' -%}
                {{- image_token -}}
            {%- elif turn.in_question -%}
                {{- ' ' + part['text'] -}}
            {%- else -%}
                {%- set turn.in_question = true -%}
                {{- '<before>' + chat.system + part['text'] -}}
                {%- set chat.system = '' -%}
            {%- endif -%}
        {%- endfor -%}
        {%- if chat.system -%}
            {%- set turn.in_question = true -%}
            {{- '<before>' + chat.system.rstrip() -}}
            {%- set chat.system = '' -%}
        {%- endif -%}
        {%- if turn.in_question -%}
            {{- '<after>' -}}
        {%- endif -%}
    {%- elif message['role'] == 'assistant' -%}
        {%- generation -%}
            {%- for part in content -%}
                {{- image_token if part['type'] == 'image' else ' ' + part['text'] -}}
            {%- endfor -%}
            {{- <end> -}}
        {%- endgeneration -%}
    {%- else -%}
        {{- raise_exception('LaVIT knows the roles system, developer, user and assistant, not ' + message['role']) -}}
    {%- endif -%}
{%- endfor -%}
{%- if chat.system -%}
    {{- raise_exception('A system message must precede a message of the user') -}}
{%- endif -%}
""".replace("<before>", QUESTION_START)
    .replace("<after>", QUESTION_END)
    .replace("<end>", repr(TURN_END))
)
