# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""The chat template, which writes a conversation as one sequence."""

VQA_PROMPT = "Question: {question} Answer:"
QUESTION_START, QUESTION_END = VQA_PROMPT.split("{question}")
TURN_END = "\n"  # ends an answer

# Images before a question precede it, as in the release, and a turn of images alone asks for a caption. The text of
# system messages precedes the first question. A blank text is no text, and spaces before a text, with which `generate`
# returns an answer, make one. An answer that nothing follows ends with the
# end of the sequence, so that other people's trainers teach a model to end its answers.
CHAT_TEMPLATE = (
    """\
{%- set chat = namespace(system='', waits=false) -%}
{%- for message in messages -%}
    {%- set content = message['content'] -%}
    {%- if content is string -%}
        {%- set content = [{'type': 'text', 'text': content}] -%}
    {%- endif -%}
    {%- if message['role'] in ('system', 'developer') -%}
        {%- for part in content -%}
            {%- if part['type'] == 'image' -%}
                {{- raise_exception('LaVIT reads images of users and assistants, not of ' + message['role']) -}}
            {%- elif part['text'].strip() -%}
                {%- set chat.system = chat.system + ' ' + part['text'].lstrip(' ') -%}
                {%- set chat.waits = true -%}
            {%- endif -%}
        {%- endfor -%}
    {%- elif message['role'] == 'user' -%}
        {%- set turn = namespace(question='', images='', is_mixed=false) -%}
        {%- set chat.waits = false -%}
        {%- for part in content -%}
            {%- if part['type'] != 'image' -%}
                {%- if part['text'].strip() -%}
                    {%- set turn.is_mixed = turn.is_mixed or turn.images != '' -%}
                    {%- set turn.question = turn.question + turn.images + ' ' + part['text'].lstrip(' ') -%}
                    {%- set turn.images = '' -%}
                {%- endif -%}
            {%- elif turn.question -%}
                {%- set turn.images = turn.images + image_token -%}
            {%- else -%}
                {{- image_token -}}
            {%- endif -%}
        {%- endfor -%}
        {%- if turn.is_mixed -%}
            {%- set turn.question = turn.question + turn.images -%}
        {%- else -%}
            {{- turn.images -}}
        {%- endif -%}
        {%- if turn.question -%}
            {{- '<before>' + (chat.system + turn.question).rstrip()[1:] + '<after>' -}}
            {%- set chat.system = '' -%}
        {%- endif -%}
    {%- elif message['role'] == 'assistant' -%}
        {%- generation -%}
            {%- for part in content -%}
                {{- image_token if part['type'] == 'image' else ' ' + part['text'].lstrip(' ') -}}
            {%- endfor -%}
            {{- eos_token if loop.last and eos_token and not add_generation_prompt else <end> -}}
        {%- endgeneration -%}
    {%- else -%}
        {{- raise_exception('LaVIT knows the roles system, developer, user and assistant, not ' + message['role']) -}}
    {%- endif -%}
{%- endfor -%}
{%- if chat.waits -%}
    {{- raise_exception('A system message must precede a message of the user') -}}
{%- endif -%}
""".replace("<before>", QUESTION_START)
    .replace("<after>", QUESTION_END)
    .replace("<end>", repr(TURN_END))
)


def one_line(text: str) -> str:
    """Returns a text without the line breaks that end turns."""
    return " ".join(text.split(TURN_END)).strip()


def turn_end_ids(tokenizer) -> list[int]:
    """
    Returns the ids of all tokens that end a turn. Many tokenizers join the line break with the mark before it, as in
    ".\n".

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer.
    """
    # Names of the line break in byte-level and in sentencepiece vocabularies. In the latter, the first is a letter.
    breaks = ("\u010a", "<0x0A>", TURN_END)
    named = [index for token, index in tokenizer.get_vocab().items() if token.endswith(breaks)]
    found = {index for index in named if tokenizer.decode([index]).endswith(TURN_END)}
    return sorted(found.union(tokenizer.encode(TURN_END, add_special_tokens=False)[-1:]))
