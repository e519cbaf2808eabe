package cuda

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/structuredffn/sffn/gen/plan/gpu"
)

// Toolkit is an installed CUDA compiler.
type Toolkit struct {
	// Version is the full version of nvcc, like 13.5.37.
	Version string
	bin     string
}

// EnvHome is the environment variable that names the toolkit's folder.
const EnvHome = "CUDA_HOME"

// ErrNoToolkit says that there is no nvcc.
var ErrNoToolkit = errors.New("no nvcc: name it with --nvcc, set " + EnvHome + " to the toolkit's folder, or put it on PATH; make cuda-toolkit sets one up in build/cuda-toolkit")

// Find returns the toolkit of the given nvcc, or, where that is empty, of
// CUDA_HOME or PATH.
func Find(nvcc string) (*Toolkit, error) {
	if home := os.Getenv(EnvHome); nvcc == "" && home != "" {
		nvcc = filepath.Join(home, "bin", "nvcc")
	}
	if nvcc == "" {
		p, err := exec.LookPath("nvcc")
		if err != nil {
			return nil, ErrNoToolkit
		}
		nvcc = p
	}
	if _, err := os.Stat(nvcc); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cuda: no nvcc at %s", nvcc)
	}
	t := &Toolkit{bin: filepath.Dir(nvcc)}
	out, err := t.run("", "nvcc", "--version")
	if err != nil {
		return nil, err
	}
	m := regexp.MustCompile(`(?m)^Cuda compilation tools, .*, V(\S+)$`).FindSubmatch(out)
	if m == nil {
		return nil, fmt.Errorf("cuda: %s --version says no version:\n%s", nvcc, out)
	}
	t.Version = string(m[1])
	return t, nil
}

// run executes one of the toolkit's programs and returns all that it wrote.
// An error carries its words whole.
func (t *Toolkit) run(dir, name string, args ...string) ([]byte, error) {
	cmd := exec.Command(filepath.Join(t.bin, name), args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return out, fmt.Errorf("cuda: %s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return out, nil
}

// Flags of the two compilers, and of what packs the machine code. Warnings,
// spilled registers and local memory are errors.
var (
	nvccFlags   = []string{"-std=c++17", "-O3", "-Werror", "all-warnings", "--generate-code", "arch=compute_80,code=compute_80", "-ptx"}
	ptxasFlags  = []string{"-O3", "-v", "-warn-spills", "-warn-lmem-usage", "-Werror"}
	fatbinFlags = []string{"-64", "--compress-all"}
)

// ptxVersion is the lowest version of PTX that has every instruction that the
// kernels use (mma of bf16 came with 7.0), and what their text is marked with:
// nvcc would mark it with its own, which only the newest drivers take. ptxas
// checks that the text holds to it.
const ptxVersion = "7.0"

var versionLine = regexp.MustCompile(`(?m)^\.version \d+\.\d+$`)

// compile makes PTX of a source file in dir.
func (t *Toolkit) compile(dir, source string) ([]byte, error) {
	out := strings.TrimSuffix(source, ".cu") + ".ptx"
	if _, err := t.run(dir, "nvcc", append(append([]string(nil), nvccFlags...), "-o", out, source)...); err != nil {
		return nil, err
	}
	ptx, err := os.ReadFile(filepath.Join(dir, out))
	if err != nil {
		return nil, err
	}
	if n := len(versionLine.FindAll(ptx, -1)); n != 1 {
		return nil, fmt.Errorf("cuda: %s has %d .version lines, want one", out, n)
	}
	ptx = versionLine.ReplaceAll(ptx, []byte(".version "+ptxVersion))
	return append([]byte(Mark), ptx...), nil
}

// Compiled is what ptxas and the disassembly say about one kernel.
type Compiled struct {
	// Registers of a thread; Barriers of a block.
	Registers, Barriers int
	gpu.Instructions
	// Local counts accesses to local memory.
	Local int
}

// Architectures that the kernels are assembled for.
var Architectures = []string{"sm_80", "sm_90"}

func cubinName(file, arch string) string { return "z_" + file + "." + arch + ".cubin" }

// pack puts the cubins of a file, which lie in dir, into one image, from which the
// driver takes what fits the device.
func (t *Toolkit) pack(dir, file string) ([]byte, error) {
	out := fatbinName(file)
	args := append([]string{"--create=" + out}, fatbinFlags...)
	for _, arch := range Architectures {
		args = append(args, fmt.Sprintf("--image3=kind=elf,sm=%s,file=%s", strings.TrimPrefix(arch, "sm_"), cubinName(file, arch)))
	}
	if _, err := t.run(dir, "fatbinary", args...); err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(dir, out))
}

// assemble makes a cubin of a PTX file in dir and returns what was found of
// each kernel.
func (t *Toolkit) assemble(dir, ptx, arch string) (cubin []byte, found map[string]Compiled, err error) {
	out := strings.TrimSuffix(ptx, ".ptx") + "." + arch + ".cubin"
	log, err := t.run(dir, "ptxas", append(append([]string(nil), ptxasFlags...), "-arch="+arch, "-o", out, ptx)...)
	if err != nil {
		return nil, nil, err
	}
	if cubin, err = os.ReadFile(filepath.Join(dir, out)); err != nil {
		return nil, nil, err
	}
	found = map[string]Compiled{}
	if err := parseLog(log, found); err != nil {
		return nil, nil, err
	}
	sass, err := t.run(dir, "nvdisasm", "-c", out)
	if err != nil {
		return nil, nil, err
	}
	return cubin, found, countSASS(sass, found)
}

var (
	logKernel = regexp.MustCompile(`Compiling entry function '(\w+)'`)
	logUsed   = regexp.MustCompile(`Used (\d+) registers(?:, used (\d+) barriers)?`)
)

// parseLog reads the report of ptxas -v.
func parseLog(log []byte, found map[string]Compiled) error {
	name := ""
	for line := range bytes.Lines(log) {
		if m := logKernel.FindSubmatch(line); m != nil {
			name = string(m[1])
		}
		if m := logUsed.FindSubmatch(line); m != nil {
			if name == "" {
				return fmt.Errorf("cuda: ptxas reports registers of no kernel:\n%s", log)
			}
			registers, _ := strconv.Atoi(string(m[1]))
			barriers, _ := strconv.Atoi(string(m[2]))
			found[name] = Compiled{Registers: registers, Barriers: barriers}
			name = ""
		}
	}
	return nil
}

var (
	sassKernel = regexp.MustCompile(`^\.text\.(\w+):`)
	sassOpcode = regexp.MustCompile(`^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)`)
)

// countSASS counts instructions of the disassembly.
func countSASS(sass []byte, found map[string]Compiled) error {
	name := ""
	seen := map[string]bool{}
	for line := range bytes.Lines(sass) {
		if m := sassKernel.FindSubmatch(line); m != nil {
			name = string(m[1])
			seen[name] = true
		}
		m := sassOpcode.FindSubmatch(line)
		if m == nil {
			continue
		}
		c, ok := found[name]
		if !ok {
			return fmt.Errorf("cuda: the disassembly has instructions of %q, of which ptxas said nothing", name)
		}
		op := string(m[1])
		wide := strings.Contains(op, ".128")
		switch base, _, _ := strings.Cut(op, "."); {
		case strings.HasPrefix(op, "HMMA.16816.F32.BF16"):
			c.MMA++
		case base == "LDSM":
			c.LDMatrix++
		case base == "LDGSTS" && wide:
			c.Copies++
		case base == "LDGSTS":
			c.OtherCopies++
		case base == "STG" && wide:
			c.Stores++
		case base == "STG":
			c.OtherStores++
		case base == "LDL" || base == "STL":
			c.Local++
		}
		found[name] = c
	}
	for name := range found {
		if !seen[name] {
			return fmt.Errorf("cuda: the disassembly has no %s", name)
		}
	}
	return nil
}
