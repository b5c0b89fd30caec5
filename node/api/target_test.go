package api

import (
	"errors"
	"strings"
	"testing"

	"pollux/blockstore"
)

func TestParseTarget(t *testing.T) {
	const (
		v0   = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"
		v1   = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"
		name = "k51qzi5uqu5dgutdk6i1ynyzgkqngpha5xpgia3a5qqp4jsh0u4csozksxel2r"
	)
	for _, tt := range []struct{ in, root, path string }{
		{v1, v1, ""},
		{v0, v0, ""},
		{"/ipfs/" + v1, v1, ""},
		{"/ipfs/" + v1 + "/", v1, ""},
		{v1 + "/a/b%20c/ü", v1, "a/b%20c/ü"},
		{"/ipfs/" + v0 + "/a/", v0, "a"},
		{v1 + "/..", v1, ".."}, // for whoever resolves it to refuse
	} {
		got, err := ParseTarget(tt.in)
		if err != nil || got.Root.String() != tt.root || got.Path != tt.path {
			t.Errorf("ParseTarget(%q) = %v, %v", tt.in, got, err)
		}
		if again, err := ParseTarget(got.String()); err != nil || again != got {
			t.Errorf("ParseTarget(%q) = %v, %v; want %v", got.String(), again, err, got)
		}
	}
	for in, want := range map[string]string{
		"":                  "not a CID",
		"/":                 "not a CID",
		"/ipfs/":            "not a CID",
		"docs.example.org":  "not a CID",
		v1 + "x":            "not a CID",
		"\x1b[2J":           `"\x1b[2J"`, // quoted
		name:                "is a name",
		"/ipfs/" + name:     "is a name",
		"/ipns/" + name:     "is a name",
		"/ipns/example.org": "is a name",
		// SHA2-256 cut down to 8 bytes, which could be forged.
		"bafkrecbnoelefnzgwbca": "digest too small",
	} {
		_, err := ParseTarget(in)
		if !errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseTarget(%q): got error %v, want one with %q", in, err, want)
		}
	}
}

// FuzzParseTarget checks that a target that is understood is written so that it is
// understood alike, that it names something that can be verified, and that everything
// else is a mistake of the user.
func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{
		"bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354/a/b%20c/ü",
		"/ipfs/QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn//x/",
		"/ipns/example.org",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseTarget(s)
		if err != nil {
			if !errors.Is(err, ErrUsage) {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		if err := blockstore.CheckCID(got.Root); err != nil || strings.HasPrefix(got.Path, "/") || strings.HasSuffix(got.Path, "/") {
			t.Fatalf("%q is %+v, %v", s, got, err)
		}
		if again, err := ParseTarget(got.String()); err != nil || again != got {
			t.Fatalf("%q became %q: %+v, %v", s, got, again, err)
		}
	})
}
