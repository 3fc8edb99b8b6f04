#!/usr/bin/env python3
"""What the Hugging Face `tokenizers` library (0.23) makes of hard texts, and where its Unicode differs from ours.

  tokenizer_reference.py cases     writes tests/data/tokenizer_cases.json
  tokenizer_reference.py variants  writes tests/data/tokenizer_variants.json
  tokenizer_reference.py tables    prints the ranges of src/text/unicode_pins.cc

Needs `pip install tokenizers==0.23.*`; `tables` also Python 3.11 (Unicode 14, as PCRE2 10.42) and libutf8proc 2.8.
Run from the repository root.
"""
import copy
import ctypes
import json
import random
import sys
import unicodedata

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

MODELS = {"nano-minimax-m2": "models/nano-minimax-m2", "nano-mimo-v2-flash": "models/nano-mimo-v2-flash",
          "qwen2": "../shared/tokenizers/qwen2"}
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\r", "\n\n", "\u00a0", "\u3000", "\u2028", "\u2029", "\u0085", "\v", "\f",
          "\u180e", "\u200b", "\u1680", "\u205f", "\u202f", "\x1c", "\x1f", "\ufeff", "        ", " \n", " \r\n\t"]
CONTRACTIONS = ["'s", "'S", "'\u017f", "'T", "'re", "'Re", "'ve", "'M", "'lL", "'d", "\u2019s", "'", "''", "I'm",
                "don't", "'\u212a", "we'Ll", "\u017f"]
MARKS = [chr(c) for c in (0x300, 0x301, 0x303, 0x308, 0x323, 0x327, 0x345, 0x334, 0x315, 0x1DF6, 0x5B0, 0x64B, 0x93C,
                          0x94D, 0xD3B, 0x9FE, 0xC3C, 0x3099, 0x1ABF, 0x20DD, 0xFE0F, 0x200D, 0xE0100, 0x1E08F,
                          0x11F41, 0x897, 0x10EFD, 0x16FF0)]
EMOJI = ["\U0001F600", "\U0001F44D\U0001F3FD", "\U0001F468\u200d\U0001F469\u200d\U0001F467\u200d\U0001F466",
         "\U0001F3F3\ufe0f\u200d\U0001F308", "\U0001F1E9\U0001F1EA", "1\ufe0f\u20e3", "\U0001FAE8", "\U0001FAE9",
         "\U0001FABF", "\u2764\ufe0f"]
LETTERS = list("abcXYZeEoOß\u1e9e\u0130\u0131\u0149\u01c5") + [
    "é", "É", "ñ", "Ω", "я", "Ж", "א", "ش", "हिन्दी", "ไทย", "日本語", "漢字", "한국어", "각", "ㄱ", "\u1100", "\u1161",
    "\u11a8", "\u1112\u1161\u11ab", "\ufb01", "Ⅷ", "²", "½", "٣", "\U0001D49C", "\U0001D7D8", "\U00010400", "ʰ", "ª",
    "\u212b", "\u2126", "\u0344", "\u0958", "\u0f43", "\u2adc", "\ufb1d", "\U0001D15E", "\U0002F800", "\uf900",
    "\u1e9b\u0323", "\u0b47\u0b56", "\u09c7\u09be", "\u0cc6\u0cc2\u0cd5", "\U00011935\U00011930", "\U00011938",
    "\U000105C0", "\U000105D2\u0307", "\U00010D4A", "\ua7da", "\u1c89", "\U000323AF", "\U0002EBF0", "\U0001E4D0",
    "\U00016D43\U00016D67"]
SIGNS = list("!\"#$%&()*+,-./:;<=>?@[\\]^_`{|}~") + [
    "—", "“", "…", "¿", "،", "。", "！", "€", "™", "\x00", "\x01", "\x7f", "\xad", "\u2060", "\ue000", "\uffff",
    "\U0010FFFF", "\ufffd", "\ufdd0", "\x1b"]
WORDS = ["the", "The", "THE", "hello", "fn main()", "http://a.b/c?d=e&f", "def f(x):\n\treturn x", "iPhone",
         "HTMLParser", "McDonald", "camelCaseABC", "AAAAaaaa"]


def any_character(r):
    c = r.randrange(r.choice([0x250, 0x10000, 0x20000, 0x110000]))
    return "x" if 0xD800 <= c < 0xE000 else chr(c)


def random_text(r, added):
    out = []
    for _ in range(r.choice([1, 2, 3, 5, 8, 13])):
        kind = r.randrange(10)
        if kind == 0:
            out.append(r.choice(SPACES) * r.choice([1, 1, 2, 3]))
        elif kind == 1:
            out.append(r.choice(["", " "]) + r.choice(LETTERS + CONTRACTIONS))
        elif kind == 2:
            out.append(r.choice(MARKS))
        elif kind == 3:
            out.append(r.choice(EMOJI))
        elif kind == 4:
            out.append(r.choice(LETTERS) * r.choice([1, 2]))
        elif kind == 5:
            out.append(r.choice(SIGNS) * r.choice([1, 1, 2, 4]))
        elif kind == 6:
            out.append(str(r.randrange(10 ** r.randrange(1, 9))))
        elif kind == 7:
            token = r.choice(added)
            cut = r.randrange(len(token) + 1)
            out.append(r.choice([token, token, token[:cut], token[cut:], token.upper()]))
        elif kind == 8:
            out.append("".join(any_character(r) for _ in range(r.randrange(1, 4))))
        else:
            out.append(r.choice(WORDS))
    return "".join(out)


def decoded(tokenizer, ids):
    return [tokenizer.decode(ids, skip_special_tokens=skip) for skip in (False, True)]


def write(path, cases):
    with open(path, "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")


def cases():
    r = random.Random(20)
    loaded = {name: Tokenizer.from_file(folder + "/tokenizer.json") for name, folder in MODELS.items()}
    added = [t.content for tok in loaded.values() for t in tok.get_added_tokens_decoder().values()]
    texts = ["a" + s + "b" for s in SPACES] + [s + "x  " + s for s in SPACES] + ["He" + c + " x" for c in CONTRACTIONS]
    texts += ["e" + a + b for a in MARKS[:12] for b in MARKS[6:9]] + ["q" + m + "\u0334" for m in MARKS] + EMOJI
    texts += [s * n for s in (" ", "\n", "a", "'", "<|") for n in (1, 7, 70, 300)]
    texts += [random_text(r, added) for _ in range(400)]
    out = []
    for text in texts:
        ids = {name: tok.encode(text, add_special_tokens=False).ids for name, tok in loaded.items()}
        out.append({"text": text, "ids": ids})
    for _ in range(60):
        case = {"decode": {}}
        for name, tok in loaded.items():
            size = tok.get_vocab_size() + 9
            ids = [r.choice([r.randrange(size), r.randrange(94, 256)]) for _ in range(r.randrange(9))]
            case["decode"][name] = [ids] + decoded(tok, ids)
        out.append(case)
    write("tests/data/tokenizer_cases.json", out)


def added_token(number, content, **flags):
    token = {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": False}
    return {**token, **flags}


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def byte_level(prefix=False, regex=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def own_pattern(name):
    whole = json.load(open(MODELS[name] + "/tokenizer.json"))
    return whole["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]


def variant_list(base):
    own = own_pattern("nano-mimo-v2-flash")
    sequence = lambda *parts: {"pre_tokenizer": {"type": "Sequence", "pretokenizers": list(parts)}}
    # The models' own patterns, every cut made visible by a space before each piece.
    yield sequence(split(own), byte_level(prefix=True))
    yield sequence(split(own_pattern("nano-minimax-m2")), byte_level(prefix=True))
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            yield sequence(split(r"[ab ]", behavior, invert), byte_level())
    for pattern in (r"\p{N}{1,3}+", r"\d{2}+", r"\d{,2}", r"x*", r"\b", r"[^\w\s]+", r"\w+", r"\h+", r"\s+$", r"^\s*",
                    r"(?m:a.b)", r"\p{Han}+|\p{Hangul}+", r"(?<=\p{L})\p{N}", r"[\p{M}\u200d]+", r"\p{Cn}|\p{Mn}",
                    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"
                    r"|\s*[\r\n]|\s+(?!\S)|\s"):
        yield sequence(split(pattern), byte_level())
    yield sequence(split(".", kind="String"), byte_level(prefix=True))
    yield {"pre_tokenizer": byte_level(prefix=True, regex=True)}
    for individual in (False, True):
        yield sequence({"type": "Digits", "individual_digits": individual}, split(own), byte_level())
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        yield {"normalizer": {"type": form}}
    yield {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "NFKC"}]}}
    size = len(base["model"]["vocab"])
    for flags in ({"single_word": True}, {"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True},
                  {"normalized": True, "special": True}, {"special": True}):
        contents = ["<t>", "<t>x", "\u00e9", "b ", "E\u0301", "  "]
        numbers = iter(range(size, size + len(contents)))
        tokens = [added_token(base["model"]["vocab"].get(c) or next(numbers), c, **flags) for c in contents]
        yield {"normalizer": {"type": "NFD"}, "added_tokens": tokens}
    yield {"model": {"ignore_merges": True}}
    template = {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<a>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<a>": {"id": "<a>", "ids": [5, 6], "tokens": ["<a>", "<b>"]}}}
    yield {"post_processor": {"type": "Sequence", "processors": [byte_level(), template]}}


def variants():
    r = random.Random(21)
    base = json.load(open("models/nano-mimo-v2-flash/tokenizer.json"))
    fixed = ["ab 12345 ba  a.b\n c!", "<t>x <t>  y<t>_ <t>", "e\u0301 E\u0301\u00e9b  b ",
             "hello    \t the \u00b2\u0663x",
             "<t>\U0001E4F0 \u0664<t> 1\U0001E4F0\u2167\u00bd2"]
    out = []
    for patch in variant_list(base):
        whole = copy.deepcopy(base)
        for key, value in patch.items():
            whole[key] = {**whole[key], **value} if key == "model" else value
        tok = Tokenizer.from_str(json.dumps(whole))
        added = [t["content"] for t in whole["added_tokens"]]
        texts = []
        for text in fixed + [random_text(r, added) for _ in range(150 if len(out) < 2 else 8)]:
            ids = tok.encode(text, add_special_tokens=True).ids
            texts.append([text, ids] + decoded(tok, ids))
        out.append({"patch": patch, "texts": texts})
    write("tests/data/tokenizer_variants.json", out)


def ranges(items):
    out = []
    for c, value in sorted(items):
        if out and out[-1][1] == c - 1 and out[-1][2] == value:
            out[-1][1] = c
        else:
            out.append([c, c, value])
    return ", ".join(f"{{0x{a:X}, 0x{b:X}{', k' + v if v else ''}}}" for a, b, v in out)


def tables():
    assert unicodedata.unidata_version == "14.0.0", "Python's Unicode must be that of PCRE2 10.42"
    everything = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    text = "".join(everything)
    changed = []
    for category in sorted({unicodedata.category(c) for c in everything} - {"Cn"}):
        pieces = pre_tokenizers.Split(Regex(r"\p{%s}" % category), "removed", invert=True).pre_tokenize_str(text)
        changed += [(ord(c), category) for piece, _ in pieces for c in piece if unicodedata.category(c) != category]
    print("kNewCategories:", ranges(changed))

    library = ctypes.CDLL("libutf8proc.so.2")
    libc = ctypes.CDLL(None)
    libc.free.argtypes = [ctypes.c_void_p]

    def utf8proc(form, string):
        function = getattr(library, "utf8proc_" + form)
        function.restype, function.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
        pointer = function(string.encode())
        result = ctypes.string_at(pointer).decode()
        libc.free(pointer)
        return result

    def differs(form, string):
        return utf8proc(form, string) != getattr(normalizers, form)().normalize_str(string)

    marks = {ord(c) for c in everything[1:] if any(differs("NFC", s) for s in ("a\u0345" + c, "a" + c + "\u0334"))}
    marks |= {ord(c) for c in everything[1:] if differs("NFD", c)}
    marks |= {ord(c) for m in list(marks) for c in unicodedata.normalize("NFD", chr(m))[1:] if ord(c) > 0xFFFF}
    print("kUnknownMarks:", ranges((c, "") for c in marks))
    print("kUnknownCompatibility:", ranges((ord(c), "") for c in everything[1:] if differs("NFKC", c)))


if __name__ == "__main__":
    {"cases": cases, "variants": variants, "tables": tables}[sys.argv[1]]()
