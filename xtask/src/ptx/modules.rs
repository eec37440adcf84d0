//! Which modules there are: each kernel's file says so in lines of its own.
//!
//! `// module NAME A=1 B=2` stands for a module NAME, compiled with these definitions.

use std::fs;
use std::path::{Path, PathBuf};

use super::{cannot, files};

/// One compilation of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) source: String,
    /// As `NAME=VALUE`.
    pub(crate) definitions: Vec<String>,
}

/// The modules of every file, in the order of the files' names.
pub(crate) fn all(kernels: &Path) -> Result<Vec<Module>, String> {
    let mut modules: Vec<Module> = Vec::new();
    for path in files(kernels, "cu")? {
        let source = fs::read_to_string(&path).map_err(|error| cannot("read", &path, error))?;
        let listed = listed(&path, &source)?;
        for module in &listed {
            if modules.iter().any(|other| other.name == module.name) {
                return Err(format!("{}: there are two modules {}", path.display(), module.name));
            }
        }
        modules.extend(listed);
    }
    if modules.is_empty() {
        return Err(format!("there is no kernel in {}", kernels.display()));
    }
    Ok(modules)
}

/// The modules that a file lists.
fn listed(path: &Path, source: &str) -> Result<Vec<Module>, String> {
    let mut modules: Vec<Module> = Vec::new();
    for line in source.lines().filter_map(|line| line.strip_prefix("// module ")) {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default();
        if name.is_empty() || !name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_') {
            return Err(format!("{}: no name for a module: {line:?}", path.display()));
        }
        if modules.iter().any(|module| module.name == name) {
            return Err(format!("{}: there are two modules {name}", path.display()));
        }
        let definitions: Vec<String> = words.map(str::to_owned).collect();
        if let Some(word) = definitions.iter().find(|word| !word.contains('=')) {
            return Err(format!("{}: module {name}: {word:?} is not NAME=VALUE", path.display()));
        }
        modules.push(Module {
            name: name.to_owned(),
            path: path.to_owned(),
            source: source.to_owned(),
            definitions,
        });
    }
    if modules.is_empty() {
        return Err(format!("{} lists no module (`// module NAME A=1`)", path.display()));
    }
    Ok(modules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(source: &str) -> Result<Vec<(String, Vec<String>)>, String> {
        let modules = listed(Path::new("a.cu"), source)?;
        Ok(modules.into_iter().map(|module| (module.name, module.definitions)).collect())
    }

    #[test]
    fn a_file_lists_its_modules() {
        let found = names("// text\n// module a X=f32 P=f32\n//module no\n// module b\nint c;\n").unwrap();
        let a = ("a".to_owned(), vec!["X=f32".to_owned(), "P=f32".to_owned()]);
        assert_eq!(found, [a, ("b".to_owned(), vec![])]);
    }

    #[test]
    fn what_is_no_list_is_an_error() {
        for wrong in ["int c;\n", "// module a X\n", "// module ../a\n", "// module a\n// module a\n"] {
            assert!(names(wrong).is_err(), "{wrong:?}");
        }
    }
}
