"""Inputs made here, by which a method sees the ranges of a backbone's values: no data is needed, and equal backbones see equal inputs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from mainstem import registry
from mainstem.artifact import Input
from mainstem.contracts import Array, Arrays, Example
from mainstem.inference import encode_input

SEED = 20
TEXTS, WORDS, LONGEST = 96, 40, 6  # texts; words at random at most in one; sentences at most in one
PICTURES, SIDE = 48, 256


def can_be_made(each: Input) -> bool:
    """Whether inputs can be made here that show what real ones will: tokenized texts and pictures; a table has ranges of its own."""
    return each.modality == "image" or (each.modality == "text" and bool(_words(each)))


def made(each: Input) -> Iterator[Arrays]:
    """Arrays for the backbone of one input: texts of the sentences below and of words that its tokenizer knows, or pictures of noise and
    flat shapes."""
    rng = np.random.default_rng(SEED)
    if each.modality == "text":
        words = _words(each)
        for i in range(TEXTS):
            text = " ".join(rng.choice(SENTENCES, rng.integers(1, LONGEST + 1), replace=False))
            if i % 4 == 3:
                text = " ".join(words[i] for i in rng.integers(0, len(words), rng.integers(1, WORDS)))
            yield encode_input(each, [Example({each.columns[0]: text})])[0]
    else:
        parse = registry.load("modalities", "image").plugin.parse
        for _ in range(PICTURES):
            yield encode_input(each, [Example({each.columns[0]: parse(picture(rng), each.processor)})])[0]


def _words(each: Input) -> list[str]:
    """The words and pieces that the tokenizer knows, by their ids; none where the text is not tokenized."""
    data = each.state.files.get("tokenizer.json")
    vocabulary: Any = json.loads(data).get("model", {}).get("vocab", {}) if data else {}
    pieces = sorted(vocabulary, key=vocabulary.__getitem__) if isinstance(vocabulary, dict) else [piece for piece, *_ in vocabulary]
    return [word for piece in pieces if (word := str(piece).removeprefix("##").lstrip("▁Ġ"))]


def picture(rng: np.random.Generator) -> Array:
    """uint8 [SIDE, SIDE, 3]: noise whose power falls with frequency as that of photographs does, with flat shapes before it."""
    steps = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE)))
    spectrum = np.fft.fft2(rng.normal(size=(3, SIDE, SIDE))) / np.maximum(steps, 1 / SIDE) ** rng.uniform(0.6, 1.4)
    noise = np.fft.ifft2(spectrum).real
    mixed = np.tensordot(np.eye(3) + rng.uniform(0, 1.5), noise / noise.std((1, 2), keepdims=True), 1)
    image = 127 + rng.uniform(20, 70) * mixed / mixed.std() + rng.uniform(-70, 70, (3, 1, 1))
    for _ in range(rng.integers(0, 6)):
        (top, left), (high, wide) = rng.integers(0, SIDE - 16, 2), rng.integers(8, SIDE // 2, 2)
        image[:, top : top + high, left : left + wide] = rng.uniform(0, 255, (3, 1, 1))
    pixels: Array = np.clip(image, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return pixels


SENTENCES = (
    "The train to the coast leaves at seven and stops at every village on the way.",
    "This library reads and writes compressed archives; it has no dependencies beside the C runtime.",
    "I ordered the blue one in medium, but the box that came held a red one in large.",
    "Add two cups of flour, a pinch of salt and the melted butter, and stir until smooth.",
    "Shares of the company fell by four per cent after it lowered its forecast for the year.",
    "Which of these is the capital of the province, and how many people live there?",
    "The patient reports pain in the left knee that began after a fall in March.",
    "A simple tool for drawing graphs from tables, with plugins for many formats.",
    "Terrible film: the plot makes no sense, the sound is bad, and it goes on for three hours.",
    "The committee will meet again on 14 May to vote on the budget of 2,300,000 euros.",
    "She opened the window, looked at the rain over the harbour, and laughed.",
    "Please reset my password; the link in the mail that you sent has expired.",
    "Photosynthesis turns light into chemical energy that plants keep as sugar.",
    "The second goal came in the last minute, from a corner that nobody had defended.",
    "def parse(line): return [cell.strip() for cell in line.split(',')]",
    "Under the agreement the tenant pays for repairs that cost less than 100 a year.",
    "Best phone I have ever owned, and the battery lasts two full days.",
    "Our results show that larger networks need fewer steps for the same loss.",
    "Development headers and static libraries for programs that talk to the database server.",
    "The museum is closed on Mondays, except in July and August.",
    "Error: could not connect to host 10.0.0.7 on port 5432 (connection refused).",
    "He was born in a small town near the border and studied law before he turned to music.",
    "A multiplayer game in which you build a city, trade with neighbours and fight pirates.",
    "Take one tablet twice a day with water, and see a doctor if the fever stays.",
    "The river rose by two metres in a night and flooded the lower part of the town.",
    "Is there a way to sort the list by date without loading all of it into memory?",
    "Grandmother's garden had roses, beans, and one old apple tree that we climbed.",
    "The new law makes it easier to start a firm and harder to close one.",
    "Perl module for dates and times in different time zones and calendars.",
    "The room was clean, the staff were friendly, but breakfast was cold both mornings.",
    "In 1911 an expedition reached the pole after fifty-six days on the ice.",
    "Server for mail that supports encryption, filters, quotas and shared folders.",
    "They argue that prices follow wages; the data of the last decade say otherwise.",
    "Turn left at the church, go on for two miles, and you will see the farm.",
    "The orchestra played the slow movement far too fast, yet the audience loved it.",
    "Fonts for Greek, Cyrillic and Arabic scripts, in four weights, free to use.",
    "My daughter is three and she asks for this book every evening.",
    "The enzyme binds to the receptor and slows the growth of the tumour in mice.",
    "Click the button, wait until the light is green, then pull out the cable.",
    "What does it cost to send a parcel of five kilos abroad?",
    "这家餐厅的菜很好吃，服务也很热情，下次还会再来。",
    "手机用了两天就坏了，客服一直不回复，非常失望。",
    "本软件提供图形界面，用于管理文件和备份数据。",
    "La bibliothèque ouvre à neuf heures et ferme plus tôt le samedi.",
    "Das Programm zeigt Messwerte als Kurven an und speichert sie als Tabelle.",
    "El equipo ganó el partido con un gol en el último minuto.",
    "Пакет содержит документацию и примеры для разработчиков.",
    "新しい駅は来年の春に開業する予定です。",
)
