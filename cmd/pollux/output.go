package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
	"golang.org/x/term"
)

// printJSON writes v on a line of standard output.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// printf writes to standard output.
func (a *app) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(a.stdout, format, args...)
	return err
}

// list is what is printed for s as JSON: an empty list is [], not null.
func list[T any](s []T) []T { return append([]T{}, s...) }

// size writes a number of bytes for people: 1.2 MB.
func size(n int64) string { return humanize.Bytes(uint64(max(n, 0))) }

// count writes a number of things for people: 1,234 files.
func count(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return humanize.Comma(n) + " " + many
}

// milliseconds writes a round-trip time for people; 0 is an unknown one.
func milliseconds(ms float64) string {
	if ms == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", ms)
}

// printable writes s so that a terminal shows every character of it and obeys
// none: control characters, invisible ones and those that turn the direction of
// the text are escaped as in Go.
func printable(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if unicode.IsPrint(r) && (r != utf8.RuneError || n > 1) {
			b.WriteString(s[:n])
		} else {
			quoted := strconv.QuoteToASCII(s[:n])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		s = s[n:]
	}
	return b.String()
}

// Terminal colors, as SGR parameters.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
)

// paint colors s if f, where it will be written, is a terminal that shows colors.
func (a *app) paint(f *os.File, color, s string) string {
	if a.noColor || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" || !isTerminal(f) {
		return s
	}
	return "\x1b[" + color + "m" + s + "\x1b[0m"
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
