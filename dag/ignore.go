package dag

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

const (
	// IgnoreFile is the name of files that say what Import leaves out of the folder
	// that they are in, in the syntax of gitignore(5).
	IgnoreFile = ".polluxignore"
	// maxIgnoreFile is how long such a file may be.
	maxIgnoreFile = 1 << 20
)

// ignoring is the rules that hold in a directory.
type ignoring struct {
	rules *ignoreRules // of the innermost ignore file; nil without any
	path  string       // of the directory, from that of the outermost ignore file: "" or "a/b/"
}

// ignoreRules is one ignore file.
type ignoreRules struct {
	outer    *ignoreRules // the next one above
	base     int          // length of ignoring.path in its directory
	patterns []ignorePattern
}

// ignorePattern is a line of an ignore file.
type ignorePattern struct {
	glob    string // for doublestar
	negated bool   // takes in what a pattern before left out
	dirOnly bool
	byName  bool // matches the name wherever it is, not the path
}

// in returns the rules for the directory called name, before its own file is read.
func (ig ignoring) in(name string) ignoring {
	if ig.rules == nil {
		return ignoring{}
	}
	return ignoring{ig.rules, ig.path + name + "/"}
}

// ignores says whether the entry called name is left out. The innermost file decides,
// and in it the last pattern that matches.
func (ig ignoring) ignores(name string, isDir bool) bool {
	path := ig.path + name
	for r := ig.rules; r != nil; r = r.outer {
		for _, p := range slices.Backward(r.patterns) {
			if p.dirOnly && !isDir {
				continue
			}
			subject := name
			if !p.byName {
				subject = path[r.base:]
			}
			if doublestar.MatchUnvalidated(p.glob, subject) {
				return !p.negated
			}
		}
	}
	return false
}

// readIgnoreFile reads the ignore file in r. One that cannot be understood is an
// error: what it was to leave out must not be published.
func readIgnoreFile(r *os.Root) ([]ignorePattern, error) {
	info, err := r.Lstat(IgnoreFile)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	if info.Size() > maxIgnoreFile {
		return nil, fmt.Errorf("larger than %d bytes", maxIgnoreFile)
	}
	f, err := openFile(r, nil, IgnoreFile, info)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := make([]byte, info.Size())
	err = f.readAt(data, 0)
	if err == nil {
		err = f.checkUnchanged()
	}
	if err != nil {
		return nil, err
	}
	return parseIgnoreFile(data)
}

func parseIgnoreFile(data []byte) ([]ignorePattern, error) {
	var patterns []ignorePattern
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		line = strings.TrimSuffix(line, "\n")
		line = trimSpaces(strings.TrimSuffix(line, "\r"))
		if line == "" || line[0] == '#' {
			continue
		}
		p, err := parseIgnorePattern(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %q: %w", n, line, err)
		}
		patterns = append(patterns, p)
	}
	return patterns, nil
}

// trimSpaces removes spaces at the end that no backslash precedes.
func trimSpaces(line string) string {
	end := 0
	for i := 0; i < len(line); i++ {
		switch line[i] {
		case ' ':
			continue
		case '\\':
			i++
		}
		end = min(i+1, len(line))
	}
	return line[:end]
}

func parseIgnorePattern(line string) (p ignorePattern, err error) {
	line, p.negated = strings.CutPrefix(line, "!")
	line, p.dirOnly = strings.CutSuffix(line, "/")
	p.byName = !strings.Contains(line, "/")
	line = strings.TrimPrefix(line, "/")
	if line == "" {
		return p, errors.New("matches nothing")
	}
	if p.glob, err = toGlob(line); err != nil {
		return p, err
	}
	if inside, ok := strings.CutSuffix(p.glob, "/**"); ok {
		p.glob = inside + "/**/*" // what is in the directory, not itself
	}
	if !doublestar.ValidatePattern(p.glob) {
		err = errBadGlob
	}
	return p, err
}

var errBadGlob = errors.New("malformed pattern")

// toGlob writes a pattern of gitignore(5) for doublestar, which differs: braces are
// special there, and classes know no names, may have slashes, and need backslashes
// before more characters.
func toGlob(pattern string) (string, error) {
	var out strings.Builder
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; c {
		case '\\':
			if i+1 == len(pattern) {
				return "", errBadGlob
			}
			i++
			out.WriteByte('\\')
			out.WriteByte(pattern[i])
		case '{', '}':
			out.WriteByte('\\')
			out.WriteByte(c)
		case '*':
			// Three and more are as two.
			if !strings.HasSuffix(out.String(), "**") || strings.HasSuffix(out.String(), `\**`) {
				out.WriteByte(c)
			}
		case '[':
			class, n, err := toClass(pattern[i:])
			if err != nil {
				return "", err
			}
			out.WriteString(class)
			i += n - 1
		default:
			out.WriteByte(c)
		}
	}
	return out.String(), nil
}

// classNames are the classes that have a name, in ASCII and without the slash, ready for
// doublestar.
var classNames = map[string]string{
	"alnum": "0-9A-Za-z", "alpha": "A-Za-z", "blank": ` \` + "\t", "cntrl": "\x01-\x1f\x7f",
	"digit": "0-9", "graph": `\!-.0-\~`, "lower": "a-z", "print": `\ -.0-\~`, "punct": `\!-.\:-\@\[-\` + "`" + `\{-\~`,
	"space": "\t-\r ", "upper": "A-Z", "xdigit": "0-9A-Fa-f",
}

// toClass writes the class at the start of pattern, which is n bytes long, for
// doublestar.
func toClass(pattern string) (class string, n int, err error) {
	var out strings.Builder
	out.WriteByte('[')
	i := 1
	if i < len(pattern) && (pattern[i] == '!' || pattern[i] == '^') {
		out.WriteString("^/") // a slash is in no class
		i++
	}
	for first := true; i < len(pattern); first = false {
		rest := pattern[i:]
		if name, ok := strings.CutPrefix(rest, "[:"); ok {
			name, _, closed := strings.Cut(name, ":]")
			chars, known := classNames[name]
			if !closed || !known {
				return "", 0, errBadGlob
			}
			out.WriteString(chars)
			i += len("[::]") + len(name)
			continue
		}
		switch {
		case rest[0] == '/':
			return "", 0, errBadGlob // to gitignore(5) a slash separates folders even here
		case rest[0] == ']' && !first:
			out.WriteByte(']')
			return out.String(), i + 1, nil
		case rest[0] == '-' && !first && len(rest) > 1 && rest[1] != ']':
			out.WriteByte('-')
			i++
		case rest[0] == '\\' && len(rest) > 1:
			out.WriteString(rest[:2])
			i += 2
		case strings.IndexByte(`\-]^!`, rest[0]) >= 0:
			out.WriteByte('\\')
			fallthrough
		default:
			out.WriteByte(rest[0])
			i++
		}
	}
	return "", 0, errBadGlob
}
