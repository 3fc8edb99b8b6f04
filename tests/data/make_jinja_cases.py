"""Renders the snippets below with the real Jinja2, in Hugging Face's environment, into jinja_cases.json.

python3 -m venv v && v/bin/pip install jinja2==3.1.6 && v/bin/python tests/data/make_jinja_cases.py
"""
import datetime
import json
import pathlib

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

CONTEXT = {
    "x": 5, "y": 2, "f": 2.5, "s": "Hello, World", "e": "", "t": True, "fl": False, "n": None,
    "u": "Zürich 日本語 😀", "l": [3, 1, 2], "w": ["b", "A", "c", "B"], "el": [], "ed": {},
    "d": {"b": 1, "a": [1, 2, {"k": "v"}], "c": None, "items": "shadowed"},
    "m": [{"role": "system", "content": "S"}, {"role": "user", "content": "U1"},
          {"role": "assistant", "content": "A1", "tool_calls": [{"id": 1, "function": {"name": "fn", "arguments": {"p": 1.0, "q": "two", "r": [1, None, True]}}}]},
          {"role": "tool", "content": "T1"}, {"role": "user", "content": "U2"}],
    "people": [{"name": "Bob", "age": 30, "city": "Rome"}, {"name": "alice", "age": 25, "city": "Oslo"},
               {"name": "Carl", "age": 30, "city": "Rome"}, {"name": "dora", "age": 41}],
    "html": "<a href=\"x\">T & 'q'</a>", "multi": "one\ntwo\n\nthree", "ws": "  \t padded \n ",
    "nested": {"a": {"b": {"c": [10, 20, {"d": "deep"}]}}}, "num": "42", "fnum": "3.75", "bad": "12abc",
    "esc": "tab\tnl\nquote'dq\"back\\nul\u0000bell\u0007e\u0301\u200b\u00a0", "big": 12345678901234,
}

# One a line.
EXPRESSIONS = r"""
x + y
x - y
x * y
x / y
x // y
x % y
x ** y
-x
+x
-x // y
-x % y
x // -y
x % -y
7.5 // 2
-7.5 // 2
-7.5 % 2
7.5 % -2
2 ** -1
2 ** 0.5
2 ** 3 ** 2
-2 ** 2
1 / 3
10 / 5
1e16
1e15
123456789012345680.0
0.1 + 0.2
1e-4
1e-5
1.5e300 * 1e10
5e-324
100.0
-0.0
3.0 * 2
7 // 2.0
1_000 + 1
0x1F
0o17
0b101
1e3
1E+2
2.50
true + 1
true + true
1 == 1.0
1 == true
'1' == 1
none == none
[1,2] == [1,2]
[1] == (1,)
{'a':1} == {'a':1.0}
x != y
missing == missing
missing == none
1 < 2 < 3
1 < 3 < 2
3 > 2 >= 2
x > 1 and y > 1
x > 9 or y > 1
not x
not e
not missing
x and y
e or 'def'
n or 0 or 'z'
x and e and y
not x == 5
not (x in l)
x not in l
3 in l
'ell' in s
'z' in s
'a' in d
'zz' in d
'b' not in d
1 in (1,2)
'' in ''
s ~ x ~ n ~ t
s ~ ' ' ~ l ~ d.a
'a' 'b' "c"
s + '!'
'ab' * 3
3 * 'ab'
l + [9]
(1,2) + (3,)
[0] * 3
'x' * 0
'x' * -1
'=' ~ 1 + 2
1 ~ 2 * 3
s[0]
s[-1]
s[100]
s[1:4]
s[:3]
s[-3:]
s[::-1]
s[::2]
s[5:1:-1]
s[10:2]
l[0]
l[-1]
l[5]
l[1:]
l[:-1]
l[::-1]
l[::2]
l[-100:100]
m[1:][0].role
u[7]
u[-1]
u[7:10]
u[::-1]
d['a'][2]['k']
d.a[2].k
d.zzz
d['zzz']
d.items
d['items']
d.keys() | list
d.get('b')
d.get('q')
d.get('q', 7)
nested.a.b.c[2].d
nested['a']['b'].c.0
(1,2,3)[1]
(1,2,3)[1:]
range(10)[3]
range(10)[2:5]
range(5) | list
range(2, 8, 3) | list
range(5, 0, -2) | list
range(0) | list
range(3)
'yes' if x else 'no'
'yes' if e else 'no'
'yes' if e
('a' if e else 'b') if x else 'c'
1 if 0 else 2 if 0 else 3
x if x > 3 else y
[]
[1]
[1, 'a', 2.0, none, true, [1], (1,), {'k': 1}]
()
(1,)
(1, 2)
{}
{'a': 1, 'b': [2]}
{1: 'x', none: 2}
[1,2,]
{'a':1,}
1, 2
x,
'it''s'
'a\'b'
"a\"b"
['a\'b', "c\"d", 'e\'f"g']
'\n\t\\'
'\x41\u00e9\U0001F600'
'\101'
'\q'
['\n\t\\', '\x07', 'é', '\u200b', '\xa0', '😀']
x is defined
missing is defined
missing is undefined
d.a is defined
d.q is defined
x is undefined
n is none
x is none
n is not none
s is string
x is string
d is mapping
l is mapping
l is iterable
s is iterable
x is iterable
d is iterable
l is sequence
s is sequence
d is sequence
x is sequence
x is number
f is number
t is number
s is number
x is integer
t is integer
f is integer
f is float
x is float
t is boolean
x is boolean
t is true
x is true
fl is false
n is false
x is odd
x is even
x is divisibleby 5
x is divisibleby(2)
x is eq 5
x is equalto 5
x is == 5
x is ne 4
x is lt 6
x is gt 6
x is ge 5
x is le 5
x is lessthan 9
x is greaterthan 9
3 is in l
9 is in l
'a' is in d
'abc' is lower
'ABC' is upper
'Abc' is lower
'123' is lower
range is callable
x is callable
missing is callable
x is sameas x
n is sameas none
'upper' is filter
'nope' is filter
'odd' is test
x is not odd
not x is odd
l is not string and x is number
missing is iterable
missing is sequence
missing is mapping
range(3) is sequence
range(3) is iterable
d.items is string
(x|safe) is escaped
x is defined and y is defined
s|upper
s|lower
s|title
s|capitalize
'hELLO wORLD foo-bar (baz'|title
'hello world'|capitalize
s|length
l|length
d|length
u|length
el|count
s|first
s|last
l|first
l|last
el|first
el|last
d|first
s|reverse
l|reverse|list
s|trim
ws|trim
'xxaxx'|trim('x')
s|replace('o', '0')
s|replace('o', '0', 1)
s|replace('', '-')
l|join
l|join(', ')
w|join('|')
people|join(', ', attribute='name')
people|map(attribute='name')|join(', ')
l|sort
l|sort(reverse=true)
w|sort
w|sort(case_sensitive=true)
people|sort(attribute='age')|map(attribute='name')|list
people|sort(attribute='age,name')|map(attribute='name')|list
people|sort(attribute='name', reverse=true)|map(attribute='name')|list
l|list
s|list
d|list
u|list
'ab'|list
l|sum
people|sum(attribute='age')
[1.5, 2]|sum
l|sum(start=10)
el|sum
[[1],[2]]|sum(start=[])
l|min
l|max
w|min
w|max
w|max(case_sensitive=true)
el|max
people|max(attribute='age')
people|min(attribute='age')
w|unique|list
[1, 1.0, 2, '1']|unique|list
people|unique(attribute='city')|map(attribute='name')|list
people[:3]|groupby('city')
people[:3]|groupby('age')|map('first')|list
people|groupby('city', default='?')|map(attribute='grouper')|list
l|select('odd')|list
l|reject('odd')|list
[0, 1, '', 'a', none]|select|list
[0, 1, '', 'a', none]|reject|list
people|selectattr('city')|map(attribute='name')|list
people|selectattr('age', 'equalto', 30)|map(attribute='name')|list
people|selectattr('age', '>', 26)|map(attribute='name')|list
people|rejectattr('city', 'defined')|map(attribute='name')|list
people|selectattr('city', 'in', ['Oslo'])|list|length
m|selectattr('role', 'equalto', 'user')|list|length
l|map('string')|list
w|map('upper')|join
w|map('replace', 'b', 'x')|list
people|map(attribute='city', default='none')|list
nested.a.b.c|map('string')|list
[[1,2],[3,4]]|map('first')|list
[[1,2],[3,4]]|map(attribute=1)|list
[[1,2],[3,4]]|map(attribute='1')|list
people|map('attr', 'name')|list
missing|default('d')
missing|d('d')
n|default('d')
n|default('d', true)|e|default('d')|e|default('d', boolean=true)
missing|default
d.q|default(x)
x|default(1)
num|int
fnum|int
bad|int
bad|int(7)
bad|int(default=8)
'0x1F'|int(base=16)
'1F'|int(0, 16)
'101'|int(base=2)
' 12 '|int
'1_000'|int
3.99|int
-3.99|int
n|int
n|int(3)
t|int
l|int
'1e3'|int
'inf'|int
num|float
fnum|float
bad|float
bad|float(1.5)
' 2.5e3 '|float
'nan'|float
'-inf'|float
x|float
n|float
x|string
f|string
l|string
n|string
t|string
d.a|string
x|abs
-5|abs
-2.5|abs
2.5|round
3.5|round
2.567|round(2)
2.567|round(1, 'floor')
2.511|round(1, 'ceil')
42|round
1234.5|round(-2)
1234|round(-2)
0.5|round
-0.5|round
2.675|round(2)
1e20|round
d|tojson
l|tojson
u|tojson
esc|tojson
n|tojson
t|tojson
f|tojson
1e20|tojson
1e-7|tojson
(1,2)|tojson
{}|tojson
[]|tojson
nested|tojson(indent=2)
nested|tojson(indent=0)
d|tojson(indent='--')
d|tojson(sort_keys=true)
u|tojson(ensure_ascii=true)
d|tojson(separators=(',', ':'))
{1: 2, none: 3, true: 4, 1.5: 5}|tojson
[[], {}]|tojson(indent=1)
m[2]|tojson
html|tojson
s|safe
html|escape
html|e
html|safe|e
html|forceescape
('<b>'|safe) + '<i>'
'<i>' + ('<b>'|safe)
('<b>'|safe) ~ '<i>'
html|escape|upper
html|escape|replace('<', 'x')
('<%s>'|safe) % '<'
5|e
n|e
multi|indent
multi|indent(2)
multi|indent(2, true)
multi|indent(2, first=true, blank=true)
multi|indent('> ')
''|indent
s|center(20)
s|center(21)
'ab'|center(5)
s|truncate(5)
s|truncate(9)
s|truncate(8, true)
s|truncate(6, true, '')
'foo bar baz qux'|truncate(9)
'foo bar baz qux'|truncate(11, false, '>', 0)
s|wordcount
'a-b c_d  e'|wordcount
u|wordcount
s|urlencode
u|urlencode
{'a b': 'c&d', 'e': 1}|urlencode
'a/b?c'|urlencode
[('k', 'v w')]|urlencode
'%s-%d'|format('a', 3)
'%(a)s'|format(a=1)
'%5.2f|%-5s|%05d|%x|%X|%o|%e|%g|%%|%r|%c' % (3.14159, 'ab', 42, 255, 255, 8, 12345.678, 0.0001, 'q', 'z')
'%s' % x
'%s' % ([1],)
'%+d % d' % (5, 5)
'%.3s' % 'abcdef'
'%*d' % (5, 42)
'%#x' % 255
'%d' % 3.9
'%i' % t
'%5s|' % 'é'
l|batch(2)|list
l|batch(2, 'x')|list
range(7)|slice(3)|list
range(7)|slice(3, 'x')|list
el|batch(2)|list
d|items|list
missing|items|list
d|dictsort
{'b': 1, 'A': 2, 'c': 0}|dictsort
{'b': 1, 'A': 2, 'c': 0}|dictsort(true)
{'b': 1, 'A': 2, 'c': 0}|dictsort(by='value')
{'b': 1, 'A': 2, 'c': 0}|dictsort(reverse=true)
d|attr('keys')
d|attr('b')
d|attr('zz')
s|attr('upper') is callable
s.upper()
s.lower()
s.title()
s.capitalize()
s.swapcase()
'  a b  '.strip()
'  a b  '.lstrip()
'  a b  '.rstrip()
'xxaxx'.strip('x')
'abcba'.lstrip('ab')
'abcba'.rstrip('ab')
'a,b,c'.split(',')
'a,b,c'.split(',', 1)
'a,b,c'.rsplit(',', 1)
' a  b '.split()
' a  b  c '.split(none, 1)
' a  b  c '.rsplit(none, 1)
' a b '.split(' ')
'abc'.split('x')
''.split()
''.split(',')
'a\nb\r\nc\n'.splitlines()
'a\nb'.splitlines(true)
'abc'.startswith('ab')
'abc'.startswith(('x', 'a'))
'abc'.endswith('bc')
'abc'.startswith('b', 1)
'abcabc'.find('c')
'abcabc'.rfind('c')
'abcabc'.find('c', 3)
'abc'.find('z')
'abcabc'.index('b')
'abcabc'.count('bc')
'aaa'.count('')
u.find('語')
'abc'.replace('b', 'X')
'aaa'.replace('a', 'b', 2)
'abc'.replace('', '-')
'日本'.replace('', '-')
'-'.join(['a', 'b'])
','.join('abc')
'a-b-c'.partition('-')
'a-b-c'.rpartition('-')
'abc'.partition('x')
'abc'.rpartition('x')
'42'.zfill(5)
'-42'.zfill(5)
'a'.ljust(3) ~ '|'
'a'.rjust(3)
'a'.center(4, '*')
'abc'.removeprefix('a')
'abc'.removesuffix('bc')
'123'.isdigit()
'12a'.isdigit()
''.isdigit()
'²'.isdigit()
'²'.isdecimal()
'½'.isnumeric()
'abc'.isalpha()
'ab1'.isalnum()
'  '.isspace()
'ABC'.isupper()
'abc'.islower()
'Ab Cd'.istitle()
'ab'.isidentifier()
'é'.isascii()
'a\tb'.isprintable()
'straße'.upper()
'ǆ'.title()
'ΑΣ'.lower()
'İ'.lower()
'ﬁn'.upper()
"they're bill's".title()
'ÀÉ'.lower()
'éa'.capitalize()
'ß'.capitalize()
'{} {}'.format(1, 'a')
'{0}{1}{0}'.format('a', 'b')
'{a}-{b}'.format(a=1, b=2)
'{:>5}|{:<5}|{:^5}|{:*^7}'.format('a', 'b', 'c', 'd')
'{:05d} {:+d} {:x} {:#b} {:,}'.format(42, 5, 255, 5, 1234567)
'{:.2f} {:8.3f} {:e} {:g} {:%}'.format(3.14159, 2.5, 12345.6, 0.00001, 0.5)
'{!r} {!s}'.format('a', 'b')
'{{}}'.format()
'{0.role} {0[content]}'.format(m[0])
'{0[1]}'.format(l)
'{:.3}'.format('abcdef')
'{:{}}'.format('a', 4) ~ '|'
'{:_}'.format(1234567)
'{:.3}'.format(3.14159)
'{}'.format(none)
'{:d}'.format(t)
l.index(2)
l.count(1)
(1,2,1).count(1)
(1,2).index(2)
l.copy()
d.copy() == d
d.values()|list
{'a': 1}.items()
{'a': 1}.keys()
{'a': 1}.values()
{'a': 1}.items()|list
2.0.is_integer()
d.update
l.append
s.nope is defined
d.__class__ is defined
dict(a=1, b=2)
dict([('a', 1)])
dict({'a': 1}, b=2)
dict()
namespace(a=1).a
namespace({'q': 2}).q
namespace(a=1)
joiner()
cycler('a', 'b').next()
strftime_now('%Y-%m-%d %H:%M:%S')
strftime_now('%d %B %Y, %A %j %y %I%p %% %f')
big
big * 1000
9007199254740993
-7 // 2
-7 % 3
7 % -3
x.y is defined
(x, y)
l|tojson|length
loop is defined
[1,2,3]|map('string')|join('-')|upper
(l|sort|list)[0]
l|sort|first
-l[0]
-x|abs
(-x)|abs
x|string + 'a'
not x is none
x in [5] and y in [2]
x == 5 in [true]
'a' < 'b'
[1,2] < [1,3]
(1,) < (1,2)
'Z' < 'a'
1 < 2.5
true < 2
x if x is not none and x > 4 else 0
[x for_ in l]
"""

TEMPLATES = [
    "{% if x %}a{% endif %}",
    "{% if e %}a{% else %}b{% endif %}",
    "{% if e %}a{% elif x == 5 %}b{% else %}c{% endif %}",
    "{% if e %}a{% elif n %}b{% elif x %}c{% endif %}|",
    "{% if x and not e or n %}a{% endif %}",
    "{% if x, y %}t{% endif %}",
    "{% for i in l %}{{ i }},{% endfor %}",
    "{% for i in el %}{{ i }}{% else %}none{% endfor %}",
    "{% for i in missing %}{{ i }}{% else %}none{% endfor %}",
    "{% for c in u %}[{{ c }}]{% endfor %}",
    "{% for k in d %}{{ k }} {% endfor %}",
    "{% for k, v in d.items() %}{{ k }}{% endfor %}",
    "{% for k, v in d|items %}{{ k }}={{ v }};{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {% endfor %}",
    "{% for i in l %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }};{% endfor %}",
    "{% for i in l %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }} {% endfor %}",
    "{% for i in range(5) %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for i in [1, 1, 2, 2, 1] %}{{ loop.changed(i) }} {% endfor %}",
    "{% for i in range(6) if i is even %}{{ loop.index }}:{{ i }}/{{ loop.length }} {% endfor %}",
    "{% for i in range(6) if i > 9 %}{{ i }}{% else %}none{% endfor %}",
    "{% for i in range(6) if i is odd %}{{ i }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% set ns = namespace(stop=false) %}{% for i in range(6) if not ns.stop %}{{ i }}{% if i == 2 %}{% set ns.stop = true %}{% endif %}{% endfor %}",
    "{% for i in range(3) %}{% for j in range(2) %}{{ loop.index }}{{ i }}{{ j }} {% endfor %}{{ loop.index }}|{% endfor %}",
    "{% for i in range(3) %}{% set outer = loop %}{% for j in range(2) %}{{ outer.index }}.{{ loop.index }} {% endfor %}{% endfor %}",
    "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in [1] %}{% break %}{% else %}never{% endfor %}",
    "{% for n in [{'c': [{'c': []}, {'c': []}]}] recursive %}({{ loop.depth }}{{ loop.depth0 }}{{ loop(n.c) }}){% endfor %}",
    "{% for i in l %}{{ loop }}{% endfor %}",
    "{% for i in l|map('string') %}{{ loop.length }}{{ loop.last }}{{ i }} {% endfor %}",
    "{% set a = 1 %}{{ a }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set a = 1, 2 %}{{ a }}",
    "{% set a %}x{{ x }}{% endset %}[{{ a }}]",
    "{% set a | upper %}abc{% endset %}{{ a }}",
    "{% set a | replace('b', 'X') | upper %}abc{% endset %}{{ a }}",
    "{% set a = 1 %}{% for i in l %}{% set a = i %}{% endfor %}{{ a }}",
    "{% set a = 1 %}{% for i in l %}{{ a }}{% set a = i %}{{ a }} {% endfor %}",
    "{% set a = 1 %}{% if true %}{% set a = 2 %}{% endif %}{{ a }}",
    "{% set ns = namespace(a=1) %}{% for i in l %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}",
    "{% set ns = namespace() %}{% set ns.a = 1 %}{% set ns.b = 'x' %}{{ ns.a }}{{ ns.b }}{{ ns.c is defined }}{{ ns.c }}",
    "{% set ns = namespace(a=[]) %}{% set ns.a = ns.a + [1] %}{% set ns.a = ns.a + [2] %}{{ ns.a }}",
    "{% if false %}{% set q = 1 %}{% endif %}{{ q is defined }}",
    "{% if false %}{% set x = 1 %}{% endif %}{{ x }}",
    "{% set x = x + 1 %}{{ x }}",
    "{% macro f(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ f(1) }} {{ f(1, 3) }} {{ f(a=4) }} {{ f(b=5, a=6) }}",
    "{% macro f(a) %}{{ a }}{{ a is defined }}{% endmacro %}{{ f() }}",
    "{% macro f(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}",
    "{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, z=3) }}",
    "{% macro f(a) %}{{ a }}{{ varargs }}{% endmacro %}{{ f(1, 2, 3) }}",
    "{% macro f(a, b='x', c=none) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(*[1, 2]) }} {{ f(1, **{'c': 3}) }}",
    "{% macro f(x) %}{{ x }}{{ y }}{% endmacro %}{{ f(9) }}",
    "{% macro f() %}{{ q }}{% endmacro %}{% set q = 'late' %}{{ f() }}",
    "{% macro f() %}{% set x = 9 %}{{ x }}{% endmacro %}{{ f() }}{{ x }}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "{% macro f() %} {{- 'a' -}} {% endmacro %}[{{ f() }}]",
    "{% macro f() %}x{% endmacro %}{{ f }}|{{ f.name }}|{{ f.arguments }}",
    "{% macro f(a, b) %}{% endmacro %}{{ f.arguments }}{{ f.catch_kwargs }}",
    "{% macro f() %}<{{ caller() }}>{% endmacro %}{% call f() %}in{% endcall %}",
    "{% macro f(l) %}{% for i in l %}{{ caller(i) }}{% endfor %}{% endmacro %}{% call(i) f([1, 2]) %}<{{ i }}>{% endcall %}",
    "{% macro f() %}{{ caller is defined }}{% endmacro %}{{ f() }}",
    "{% for i in [1, 2] %}{% macro f() %}{{ i }}{% endmacro %}{{ f() }}{% endfor %}",
    "{% macro a() %}A{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}",
    "{% filter upper %}abc{{ s }}{% endfilter %}",
    "{% filter replace('a', 'b') | upper %}abc{% endfilter %}",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}",
    "{% with %}{% set z = 1 %}{{ z }}{% endwith %}{{ z is defined }}",
    "{% with x = 1 %}{% with y = x %}{{ y }}{% endwith %}{% endwith %}{{ x }}{{ y }}",
    "{% with a = x, x = 7 %}{{ a }}{{ x }}{% endwith %}",
    "{% raw %}{{ x }}{% if %}{% endraw %}",
    "{%- raw -%}  {{ x }}  {%- endraw -%}  z",
    "{% raw %}\n a\n{% endraw %}\nb",
    "a{# c #}b",
    "a {#- c -#} b",
    "a\n  {# c #}\nb",
    "{# {{ x }} {% if %} #}z",
    "{#- -#}",
    "{##}x",
    "{% generation %}a{{ x }}{% endgeneration %}",
    "{% block b %}x{{ x }}{% endblock %}",
    "{% block b %}x{% endblock b %}y",
    "a\n{% if x %}\nb\n{% endif %}\nc",
    "a\n  {% if x %}\n  b\n  {% endif %}\nc",
    "a\n  {%- if x %}\n  b\n  {%- endif %}\nc",
    "a\n  {%+ if x %}\n  b\n  {%+ endif %}\nc",
    "a {% if x +%}\n b{% endif %}",
    "a  {% if x %}  b  {% endif %}  c",
    "a  {%- if x -%}  b  {%- endif -%}  c",
    "  {{ x }}  ",
    "a \n {{- x -}} \n b",
    "{{ x }}\n",
    "{{ x }}\n\n",
    "\n{{ x }}",
    "a\r\n{% if x %}\r\nb{% endif %}",
    "a\rb",
    "\n\n  {% set a = 1 %}\n\n",
    "{% if x %}\n\n{% endif %}",
    " {% if x %} {% endif %} ",
    "\t{% if x %}t{% endif %}",
    "a\n\t {# c #} \nb",
    "{% for i in l %}\n  {{ i }}\n{% endfor %}\n",
    "{%- for i in l -%}\n  {{ i }}\n{%- endfor -%}\n",
    "  {%- set a = 1 %}  {{ a }}",
    "x{{ '\n' }}\n  {% if true %}\n  y\n  {% endif %}",
    "{{ '{{' }}{{ '}}' }}{{ '{%' }}",
    "{{ {'a': {'b': 1}}['a']['b'] }}",
    "{{ {'a': 1}}}",
    "{{ \"a\n b\" }}",
    "{ { x } }",
    "{{x}}{{y}}",
    "{% if x %}{{ x }}{% endif %}{{ y }}",
    "100%",
    "{x}",
    "{{ x}}%}",
    "{%if x%}a{%endif%}",
    "{% print x %}",
    "{% set a = [] %}{% set b = a + [1] %}{{ a }}{{ b }}",
    "{{ joiner('|') is callable }}{% set j = joiner(', ') %}{% for i in l %}{{ j() }}{{ i }}{% endfor %}",
    "{% set c = cycler('a', 'b', 'c') %}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.reset() }}{{ c.next() }}",
    "{% set g = l|map('string') %}{{ g|first }}{{ g|first }}{{ g|list }}{{ g|list }}",
    "{% set a = 1 %}{% set f %}{% set a = 2 %}{{ a }}{% endset %}{{ f }}{{ a }}",
    "{% for m in m %}{{ m.role }} {% endfor %}{{ m|length }}",
    "{% for message in m %}{% if message.role == 'user' %}<u>{{ message.content }}</u>{% elif message['role'] == 'assistant' %}<a>{{ message.content }}{% for tc in message.tool_calls %}{{ tc.function.name }}({{ tc.function.arguments | tojson }}){% endfor %}</a>{% else %}<{{ message.role }}>{% endif %}{% endfor %}",
    "{% set ns = namespace(last=-1) %}{% for i in m %}{% if i.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{{ ns.last }}",
    "{%- for i in m[::-1] %}{%- set index = (m|length - 1) - loop.index0 %}{{ index }}{{ i.role }} {% endfor %}",
    "{% for k, v in m[2].tool_calls[0].function.arguments.items() %}{{ k }}={{ v if v is string else v | tojson }};{% endfor %}",
    "{{ m[0]['role'] == 'system' and m[0].content or '' }}",
    "{{ (m | selectattr('role', 'equalto', 'system') | list | first).content }}",
    "{{ m | map(attribute='role') | unique | join(',') }}",
    "{% set content = '<think>r</think>a' %}{{ content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') }}|{{ content.split('</think>')[-1] }}",
    "{{ missing.foo if missing is defined else 'ok' }}",
    "{{ raise_exception('boom ' ~ x) }}",
    "{{ missing.foo }}",
    "{{ d.q.r }}",
    "{{ missing() }}",
    "{{ missing + 1 }}",
    "{{ 1 + missing }}",
    "{{ -missing }}",
    "{{ missing < 1 }}",
    "{{ missing[0] }}",
    "{{ missing|int }}",
    "{{ d.nope() }}",
    "{{ l[9].x }}",
    "{{ n.x }}",
    "{{ n.x.y }}",
    "{{ n[0] }}",
    "{{ l.append(1) }}",
    "{{ d.update({}) }}",
    "{{ d.pop('a') }}",
    "{{ d.__class__.__name__ }}",
    "{{ 1 + 'a' }}",
    "{{ 'a' + 1 }}",
    "{{ l + 1 }}",
    "{{ n + 1 }}",
    "{{ 'a' - 1 }}",
    "{{ 'a' * 'b' }}",
    "{{ [] < 1 }}",
    "{{ 'a' < 1 }}",
    "{{ n > 1 }}",
    "{{ d < d }}",
    "{{ 1 / 0 }}",
    "{{ 1 // 0 }}",
    "{{ 1 % 0 }}",
    "{{ 1.0 / 0 }}",
    "{{ 1.0 // 0 }}",
    "{{ 1.0 % 0 }}",
    "{{ 1 in 5 }}",
    "{{ 1 in 'abc' }}",
    "{{ [] in d }}",
    "{{ {[]: 1} }}",
    "{{ x() }}",
    "{{ s() }}",
    "{{ s.nope() }}",
    "{{ n() }}",
    "{{ -s }}",
    "{{ x|length }}",
    "{{ n|length }}",
    "{{ x|first }}",
    "{{ x|list }}",
    "{{ x|join }}",
    "{{ x|sort }}",
    "{{ ['a', 1]|sort }}",
    "{{ x|upper }}",
    "{{ n|upper }}",
    "{{ l|upper }}",
    "{{ x|trim }}",
    "{{ x|tojson }}",
    "{{ missing|tojson }}",
    "{{ range|tojson }}",
    "{{ d.items()|tojson }}",
    "{{ x|items }}",
    "{% for i in 5 %}{% endfor %}",
    "{% for i in n %}{% endfor %}",
    "{% for a, b in [1] %}{% endfor %}",
    "{% for a, b in [(1, 2, 3)] %}{% endfor %}",
    "{% for a, b in [(1,)] %}{% endfor %}",
    "{% set d.a = 1 %}",
    "{% set nope.a = 1 %}",
    "{{ l|sum(start='') }}",
    "{{ w|sum }}",
    "{{ x[1:2] }}",
    "{{ n[1:] }}",
    "{{ l['a':] }}",
    "{{ l[::0] }}",
    "{{ d[1:2] }}",
    "{{ missing[1:] }}",
    "{{ range(100001)|list|length }}",
    "{{ range(0, 10, 0) }}",
    "{{ range('a') }}",
    "{{ range() }}",
    "{{ 'abc'.index('z') }}",
    "{{ l.index(99) }}",
    "{{ (1, 2).index(3) }}",
    "{{ 'a'.join([1]) }}",
    "{{ 'a'.join(1) }}",
    "{{ 'a'.split('') }}",
    "{{ '%d' % 'a' }}",
    "{{ '%s %s' % 'a' }}",
    "{{ '%s' % ('a', 'b') }}",
    "{{ '%q' % 1 }}",
    "{{ '{}'.format() }}",
    "{{ '{a}'.format() }}",
    "{{ '{'.format() }}",
    "{{ l|map('nope')|list }}",
    "{{ l|map|list }}",
    "{{ l|selectattr|list }}",
    "{{ l|select('nope')|list }}",
    "{{ 2.5|round(method='x') }}",
    "{{ s|round }}",
    "{{ d|dictsort(by='x') }}",
    "{{ l|dictsort }}",
    "{{ [[1], [{}]]|unique|list }}",
    "{{ [{}]|unique|list }}",
    "{{ l|reverse|length }}",
    "{{ l|map('string')|length }}",
    "{{ l|map('string')|last }}",
    "{{ x|reverse }}",
    "{{ s|truncate(2) }}",
    "{{ l|slice(0)|list }}",
    "{{ x|indent }}",
    "{{ n|indent }}",
    "{{ [none]|sum }}",
    "{{ loop.index }}",
    "{{ caller() }}",
    "{% macro f(a) %}{{ a.b }}{% endmacro %}{{ f() }}",
    "{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}",
    "{% macro f(a) %}{% endmacro %}{{ f(b=2) }}",
    "{% macro f() %}{{ caller() }}{% endmacro %}{{ f() }}",
    "{{ s|replace }}",
    "{{ dict(1) }}",
    "{{ dict([1]) }}",
    "{{ namespace(1) }}",
    "{% for i in l %}{{ loop(l) }}{% endfor %}",
    "{% for i in l %}{{ loop.cycle() }}{% endfor %}",
    "{{ cycler() }}",
    "{% set a, b = 1 %}",
    "{% set a, b = 'x' %}",
    "{{ ('a' if e).b }}",
    "{{ 'a' if e else missing.x }}",
    "{{ l.x }}",
    "{{ l.x.y }}",
    "{{ s.x.y }}",
    "{{ x.y.z }}",
    "{{ d['q']['r'] }}",
    "{{ d.a.b.c }}",
    "{{ l['a'].b }}",
    "{{ l[none].b }}",
    "{{ d[1].b }}",
    "{{ d[none].b }}",
    "{{ u[99].b }}",
    "{{ range(3)[9].x }}",
    "{{ (1,)[3].x }}",
    "{{ namespace().a.b }}",
    "{% for i in l %}{{ loop.x.y }}{% endfor %}",
    "{{ f.a.b }}",
    "{{ true.a.b }}",
    "{{ ('x'|safe).a.b }}",
    "{{ raise_exception() }}",
    "{{ x",
    "{{ x }",
    "{% if x %}",
    "{% if %}{% endif %}",
    "{% endif %}",
    "{% for %}{% endfor %}",
    "{% for i %}{% endfor %}",
    "{% for i in %}{% endfor %}",
    "{% for i in l %}",
    "{% for 1 in l %}{% endfor %}",
    "{% for loop in l %}{% endfor %}",
    "{% nope %}",
    "{% if x %}{% endfor %}",
    "{% for i in l %}{% endif %}{% endfor %}",
    "{{ }}",
    "{{ 1 + }}",
    "{{ (1 }}",
    "{{ [1 }}",
    "{{ 1) }}",
    "{{ {1} }}",
    "{{ x y }}",
    "{{ 'abc }}",
    "{{ x | }}",
    "{{ x|nope }}",
    "{{ x is nope }}",
    "{% if x is nope %}{% endif %}",
    "{% if e %}{{ x|nope }}{% endif %}ok",
    "{{ x|nope if e else 'ok' }}",
    "{% if x %}{{ x|nope }}{% endif %}",
    "{% if e %}{% for i in l %}{{ x|nope }}{% endfor %}{% endif %}",
    "{{ x is odd is even }}",
    "{{ f(a=1, 2) }}",
    "{{ f(**d, *l) }}",
    "{% set %}",
    "{% set 1 = 2 %}",
    "{% set x.y.z = 1 %}",
    "{% set a = %}",
    "{% macro %}{% endmacro %}",
    "{% macro f %}{% endmacro %}",
    "{% macro f(a=1, b) %}{% endmacro %}",
    "{% call x %}{% endcall %}",
    "{% break %}",
    "{% do x %}",
    "{% raw %}x",
    "{# x",
    "{{ x }}{% endraw %}",
    "{{ x.}}",
    "{{ x[] }}",
    "{{ ? }}",
    "{{ a.b! }}",
    "{{ 'a'|upper( }}",
    "{% include 'x' %}",
    "{% extends 'x' %}",
    "{% import 'x' as y %}",
    "{{ x not 5 }}",
    "{{ not }}",
    "{{ *l }}",
    "{{ x = 5 }}",
    "{{ x if }}",
    "{{ 1..2 }}",
    "{{ 07 }}",
    "{{ é }}",
    "{% set é = 1 %}{{ é }}",
    "{{ 'a' ; }}",
    "{% if x }}{% endif %}",
    "{% else %}",
    "{% elif %}",
]


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: datetime.datetime(2026, 3, 4, 5, 6, 7, 89).strftime(f)
    return env


def main():
    env = environment()
    cases = []
    templates = ["{{ " + e + " }}" for e in EXPRESSIONS.strip().split("\n")] + TEMPLATES
    for template in dict.fromkeys(templates):
        case = {"template": template}
        try:
            text = env.from_string(template).render(**CONTEXT)
            if " at 0x" in text:
                continue
            case["rendered"] = text
        except jinja2.TemplateSyntaxError as error:
            case["syntax_error"] = error.message
        except Exception as error:
            case["error"] = str(error)
        cases.append(case)
    out = {"jinja2": jinja2.__version__, "now": "2026-03-04T05:06:07.000089", "context": CONTEXT, "cases": cases}
    path = pathlib.Path(__file__).parent / "jinja_cases.json"
    path.write_text(json.dumps(out, ensure_ascii=False, indent=0) + "\n")
    print(len(cases), "cases")


main()
