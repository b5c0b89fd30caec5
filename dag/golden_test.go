package dag

import (
	"crypto/sha256"
	"io"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/crypto/chacha20"
)

// keystream yields the bytes from which Kubo's tests of its profiles make files and
// names: the ChaCha20 key stream for the hash of a seed.
type keystream struct{ cipher *chacha20.Cipher }

func newKeystream(t testing.TB, seed string) keystream {
	t.Helper()
	key := sha256.Sum256([]byte(seed))
	c, err := chacha20.NewUnauthenticatedCipher(key[:], make([]byte, chacha20.NonceSize))
	if err != nil {
		t.Fatal(err)
	}
	return keystream{c}
}

func (k keystream) Read(p []byte) (int, error) {
	clear(p)
	k.cipher.XORKeyStream(p, p)
	return len(p), nil
}

func (k keystream) bytes(t testing.TB, n int) string {
	t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(k, b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// kuboNames makes the names of Kubo's test directories: 4,765 of 11 letters and a
// last one that decides on which side of the threshold the directory is.
func kuboNames(t testing.TB, lastLen int) []string {
	const letters = "abcdefghijklmnopqrstuvwxyz01234567890-_"
	const names, nameLen = 4766, 11
	random := newKeystream(t, "hamt-unixfs-v1-2025").bytes(t, 1<<20)
	var all []string
	for i := range names {
		n := nameLen
		if i == names-1 {
			n = lastLen
		}
		name := make([]byte, n)
		for j := range name {
			name[j] = letters[int(random[j])%len(letters)]
		}
		random = random[n:]
		all = append(all, string(name))
	}
	slices.Sort(all)
	return all
}

// The roots are those in Kubo's test/cli/cid_profiles_test.go, where it has the case.
func TestImportGolden(t *testing.T) {
	seeded := newKeystream(t, "chunk-v1-seed").bytes(t, 1<<20+1)
	tests := []struct {
		name string
		tree tree
		file string // in tree; empty for the tree itself
		root string
	}{
		{"empty file", tree{"f": ""}, "f", "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"},
		{"hello world", tree{"f": "hello world"}, "f", "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"},
		{"1 MiB", tree{"f": seeded[:1<<20]}, "f", "bafkreiacndfy443ter6qr2tmbbdhadvxxheowwf75s6zehscklu6ezxmta"},
		{"1 MiB + 1", tree{"f": seeded}, "f", "bafybeigmix7t42i6jacydtquhet7srwvgpizfg7gjbq7627d35mjomtu64"},
		{"empty directory", tree{}, "", "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"},
		{"site", siteTree(), "", "bafybeigvmkabys6ul7slwsfeqi3robhd33drccnxblmcg3ukdfkbkynpny"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(tt.tree.write(t), tt.file)
			_, res := importTree(t, unixfsV1, path, ImportOptions{})
			if got := res.Root.String(); got != tt.root {
				t.Errorf("root is %s, want %s", got, tt.root)
			}
		})
	}
}

// Files of 1,024 and 1,025 chunks of zeros, on either side of a third level of links.
func TestLayoutGolden(t *testing.T) {
	m := newMemStore()
	leaf, err := putLeaf(make([]byte, unixfsV1.chunkSize), m.put)
	if err != nil {
		t.Fatal(err)
	}
	for chunks, want := range map[int]string{
		1024: "bafybeibqawkaltgjfdebq4no6nmfcvkcw7k52xqzclkwfmrkn6oxw7srmy",
		1025: "bafybeigt7wofv4vnxbg3titijasuw4ptg5kfztec4smsk7opdt7z6djoxq",
	} {
		file, err := unixfsV1.joinParts(slices.Repeat([]part{leaf}, chunks), metadata{}, m.put)
		if err != nil {
			t.Fatal(err)
		}
		if got := file.link.CID.String(); got != want {
			t.Errorf("root of %d chunks is %s, want %s", chunks, got, want)
		}
		e, err := Stat(t.Context(), m, file.link.CID)
		if err != nil || e.Size != int64(chunks)<<20 {
			t.Errorf("root of %d chunks: %+v, %v", chunks, e, err)
		}
	}
}

// Directories of 256 KiB and of one byte more, on either side of sharding.
func TestDirectoryGolden(t *testing.T) {
	m := newMemStore()
	for lastLen, want := range map[int]string{
		21: "bafybeic3h7rwruealwxkacabdy45jivq2crwz6bufb5ljwupn36gicplx4",
		22: "bafybeiegvuterwurhdtkikfhbxcldohmxp566vpjdofhzmnhv6o4freidu",
	} {
		var entries []Link
		for _, name := range kuboNames(t, lastLen) {
			entries = append(entries, m.putFile(t, name, "x"))
		}
		dir, err := unixfsV1.putDirectory(entries, metadata{}, m.put)
		if err != nil {
			t.Fatal(err)
		}
		if got := dir.CID.String(); got != want {
			t.Errorf("root is %s, want %s", got, want)
		}
		listed := 0
		for e, err := range List(t.Context(), m, dir.CID) {
			if err != nil {
				t.Fatal(err)
			}
			if listed%100 == 0 {
				if found, err := Resolve(t.Context(), m, dir.CID, e.Name); err != nil || found != e {
					t.Fatalf("%q: listed %+v, found %+v, %v", e.Name, e, found, err)
				}
			}
			listed++
		}
		if listed != len(entries) {
			t.Errorf("listed %d entries of %d", listed, len(entries))
		}
	}
}
