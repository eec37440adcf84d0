//! The compiler, as a library that is loaded when it is there.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs;
use std::path::Path;
use std::ptr;

use libloading::Library;

use super::cannot;
use super::modules::Module;

type Program = *mut c_void;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Text = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type Explain = unsafe extern "C" fn(c_int) -> *const c_char;

/// The functions of libnvrtc that are called.
pub(crate) struct Nvrtc {
    create: Create,
    compile: Compile,
    destroy: Destroy,
    ptx_size: Size,
    ptx: Text,
    log_size: Size,
    log: Text,
    explain: Explain,
    /// What the functions lie in: kept loaded for as long as they are.
    _library: [Library; 2],
}

impl Nvrtc {
    /// Loads the library from its folder.
    pub(crate) fn load(folder: &Path) -> Result<Nvrtc, String> {
        // It looks for the second by its name, and finds it if it is loaded already.
        let load = |name: &str| {
            let path = folder.join(name);
            // SAFETY: the initialisers of NVIDIA's library, whose sum was checked, ask for nothing of their caller.
            unsafe { Library::new(&path) }.map_err(|error| format!("cannot load {}: {error}", path.display()))
        };
        let builtins = load("libnvrtc-builtins.so.12.4")?;
        let library = load("libnvrtc.so.12")?;
        fn symbol<T: Copy>(library: &Library, name: &str) -> Result<T, String> {
            // SAFETY: each is asked for by the type that nvrtc.h declares.
            let symbol = unsafe { library.get::<T>(name.as_bytes()) };
            symbol.map(|symbol| *symbol).map_err(|error| format!("libnvrtc has no {name}: {error}"))
        }
        Ok(Nvrtc {
            create: symbol(&library, "nvrtcCreateProgram")?,
            compile: symbol(&library, "nvrtcCompileProgram")?,
            destroy: symbol(&library, "nvrtcDestroyProgram")?,
            ptx_size: symbol(&library, "nvrtcGetPTXSize")?,
            ptx: symbol(&library, "nvrtcGetPTX")?,
            log_size: symbol(&library, "nvrtcGetProgramLogSize")?,
            log: symbol(&library, "nvrtcGetProgramLog")?,
            explain: symbol(&library, "nvrtcGetErrorString")?,
            _library: [library, builtins],
        })
    }

    /// The PTX of a module. The same source gives the same text: neither paths nor times get into it.
    pub(crate) fn compile(
        &self,
        module: &Module,
        architecture: &str,
        include: &[&Path],
    ) -> Result<String, String> {
        let definitions = module.definitions.iter().map(|definition| format!("--define-macro={definition}"));
        let options: Vec<String> = options(architecture, include).chain(definitions).collect();
        let file = module.path.file_name().unwrap_or_default().to_string_lossy();
        let (ptx, log) = self.translate(&module.name, &file, &module.source, &options)?;
        // A warning is a fault: nobody would read it again.
        if log.trim().is_empty() { Ok(ptx) } else { Err(format!("{}:\n{}", module.name, begin(&log))) }
    }

    /// The PTX of a file of another project, whose warnings are not ours. Functions that say neither that they are of the
    /// host nor that they are of the GPU are taken for the GPU's, as nvcc takes those that are constant expressions.
    pub(crate) fn compile_foreign(
        &self,
        path: &Path,
        architecture: &str,
        include: &[&Path],
    ) -> Result<String, String> {
        let options =
            options(architecture, include).chain(["--device-as-default-execution-space".to_owned()]);
        let source = fs::read_to_string(path).map_err(|error| cannot("read", path, error))?;
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        Ok(self.translate(&file, &file, &source, &options.collect::<Vec<_>>())?.0)
    }

    /// The PTX of a text, and what the compiler says of it.
    fn translate(
        &self,
        what: &str,
        file: &str,
        source: &str,
        options: &[String],
    ) -> Result<(String, String), String> {
        let (source, file) = (text(source)?, text(file)?);
        let options = options.iter().map(|option| text(option)).collect::<Result<Vec<_>, _>>()?;
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let mut program = ptr::null_mut();
        // SAFETY: both texts end in zero and outlive the program, which has no headers of its own.
        let status = unsafe {
            (self.create)(&mut program, source.as_ptr(), file.as_ptr(), 0, ptr::null(), ptr::null())
        };
        self.must(status, "creating a program")?;
        // SAFETY: a program that was created, and as many options as are counted.
        let status = unsafe { (self.compile)(program, options.len() as c_int, options.as_ptr()) };
        let log = self.text_of(program, self.log_size, self.log);
        let ptx = match self.must(status, &format!("compiling {what}")) {
            Ok(()) => self.text_of(program, self.ptx_size, self.ptx),
            Err(error) => Err(format!("{error}\n{}", begin(log.as_deref().unwrap_or_default()))),
        };
        // SAFETY: created above, and not used after.
        unsafe { (self.destroy)(&mut program) };
        Ok((ptx?, log?))
    }

    fn text_of(&self, program: Program, size: Size, text: Text) -> Result<String, String> {
        let mut bytes = 0;
        // SAFETY: a program that was created.
        self.must(unsafe { size(program, &mut bytes) }, "asking for the size of a text")?;
        let mut buffer = vec![0u8; bytes.max(1)];
        // SAFETY: as many bytes as it asked for, the last of which is the zero that ends the text.
        self.must(unsafe { text(program, buffer.as_mut_ptr().cast()) }, "asking for a text")?;
        let text = CStr::from_bytes_until_nul(&buffer).map_err(|error| error.to_string())?;
        Ok(text.to_string_lossy().into_owned())
    }

    fn must(&self, status: c_int, what: &str) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: it takes any number, and returns a text that is never freed.
        let why = unsafe { (self.explain)(status) };
        if why.is_null() {
            return Err(format!("{what}: NVRTC returns {status}"));
        }
        // SAFETY: not null, and ends in zero.
        Err(format!("{what}: {}", unsafe { CStr::from_ptr(why) }.to_string_lossy()))
    }
}

/// What the compiler is told of every file.
fn options(architecture: &str, include: &[&Path]) -> impl Iterator<Item = String> {
    let include = include.iter().map(|folder| format!("--include-path={}", folder.display()));
    [format!("--gpu-architecture={architecture}"), "--std=c++17".to_owned()].into_iter().chain(include)
}

/// The first lines of a log: one error brings hundreds.
fn begin(log: &str) -> String {
    log.lines().take(40).collect::<Vec<_>>().join("\n")
}

fn text(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("a zero within a text: {text:?}"))
}
