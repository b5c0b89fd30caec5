package main

import "testing"

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"":                         "",
		"index.html":               "index.html",
		"a b%20c\\d":               "a b%20c\\d",
		"Übersicht 概要 🙂":           "Übersicht 概要 🙂",
		"\x1b[2J":                  `\x1b[2J`,
		"a\nb\rc\td\x00":           `a\nb\rc\td\x00`,
		"\u009b31m":                `\u009b31m`,          // a control sequence in one character
		"photo\u202egpj.exe":       `photo\u202egpj.exe`, // shown as photoexe.jpg
		"\u2066\u200b\ufeff":       `\u2066\u200b\ufeff`,
		"\xff\xfe":                 `\xff\xfe`,
		"\ufffd":                   "\ufffd",
		"\u00a0\u2028":             `\u00a0\u2028`,
		"\xed\xa0\x80 (surrogate)": `\xed\xa0\x80 (surrogate)`,
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestCount(t *testing.T) {
	for n, want := range map[int64]string{0: "0 files", 1: "1 file", 32771: "32,771 files"} {
		if got := count(n, "file", "files"); got != want {
			t.Errorf("count(%d) = %q, want %q", n, got, want)
		}
	}
}
